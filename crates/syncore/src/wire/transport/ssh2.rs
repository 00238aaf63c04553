//! ssh2
use super::*;
pub(super) fn connect(_remote: &Remote) -> Result<ByteStream, TransportError> {
    Err(TransportError::NotBuilt)
}
