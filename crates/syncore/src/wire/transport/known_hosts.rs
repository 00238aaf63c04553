//! known_hosts
use std::path::Path;
pub(super) fn recorded_at(_file: &Path, _line: usize) -> Option<String> {
    None
}
