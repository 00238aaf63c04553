//! The command line of clonetool.

fn main() {}
