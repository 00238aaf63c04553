//! Clone a running Unix root, hold the copy in sync by block-level deltas, protect what belongs to the standby.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)
)]

pub mod apply;
pub mod delta;
pub mod monitor;
pub mod plan;
pub mod problem;
pub mod profile;
pub mod rules;
pub mod scan;
pub mod session;
pub mod tree;
pub mod wire;
