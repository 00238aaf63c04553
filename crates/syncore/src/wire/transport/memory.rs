//! Two ends of a connection inside one process, for tests and for embedding both endpoints.
//!
//! Why: the engine must run against a peer without a host. Kernel pipes give what a real transport gives: bounded
//! buffers, blocking, an end of file. What can go wrong: running out of descriptors.

use std::io::{PipeReader, PipeWriter};

use super::cut::Cut;
use super::{ByteStream, TransportError, pipe};

/// Two connected streams; what one writes the other reads.
///
/// # Errors
/// [`TransportError::Local`] when there are no descriptors left.
pub fn pair() -> Result<(ByteStream, ByteStream), TransportError> {
    let (here_reader, there_writer) = pipe()?;
    let (there_reader, here_writer) = pipe()?;
    let end = |reader: PipeReader, writer: PipeWriter| {
        let cut = Cut::new()?;
        Ok(ByteStream {
            reader: Box::new(cut.guard(reader)?),
            writer: Box::new(cut.guard(writer)?),
            finish: Box::new(|| None),
            abort: cut.into_abort(),
        })
    };
    Ok((end(here_reader, here_writer)?, end(there_reader, there_writer)?))
}
