//! (stub)
/// stub
#[derive(Debug)]
pub struct Compared {}
/// stub
pub fn compare_directory() {}
