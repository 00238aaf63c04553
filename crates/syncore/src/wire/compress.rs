//! One zstd stream for all content of a direction.
//!
//! Why: the files of a system repeat each other, and a stream that remembers what it saw, over [`WINDOW_LOG`], halves
//! what compressing them one by one would leave; long-distance matching finds repetitions at the speed of level 1
//! (zstd manual, `ZSTD_c_enableLongDistanceMatching`). What can go wrong: a peer that sends a little that becomes
//! much; what one frame may become is limited, and so is the window that is set aside.

use std::io;

use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, InBuffer, Operation, OutBuffer};

/// The binary logarithm of how many bytes back a repetition is found. Both ends hold that much.
const WINDOW_LOG: u32 = 25;

/// Bytes of output asked for at once.
const STEP_BYTES: usize = 128 * 1024;

/// Compresses the payloads of a direction's content, in the order in which they are sent.
pub(super) struct StreamEncoder(Encoder<'static>);

impl StreamEncoder {
    pub(super) fn new(level: i32) -> io::Result<Self> {
        let mut encoder = Encoder::new(level)?;
        encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
        encoder.set_parameter(CParameter::EnableLongDistanceMatching(true))?;
        Ok(Self(encoder))
    }

    /// Appends to `into` what `plain` becomes, all of it.
    pub(super) fn compress(&mut self, plain: &[u8], into: &mut Vec<u8>) -> io::Result<()> {
        let mut input = InBuffer::around(plain);
        loop {
            let start = into.len();
            into.reserve(STEP_BYTES);
            let mut output = OutBuffer::around_pos(into, start);
            let left = if input.pos() < plain.len() {
                self.0.run(&mut input, &mut output)?;
                1
            } else {
                self.0.flush(&mut output)?
            };
            if left == 0 {
                return Ok(());
            }
        }
    }
}

/// The other end of a [`StreamEncoder`].
pub(super) struct StreamDecoder(Decoder<'static>);

impl StreamDecoder {
    pub(super) fn new() -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
        Ok(Self(decoder))
    }

    /// What one payload was, at most `limit` bytes.
    pub(super) fn decompress(&mut self, payload: &[u8], limit: usize) -> io::Result<Vec<u8>> {
        let mut input = InBuffer::around(payload);
        let mut plain = Vec::with_capacity(payload.len().saturating_mul(4).min(limit + 1));
        loop {
            let start = plain.len();
            plain.reserve(STEP_BYTES.min(limit + 1 - start));
            let mut output = OutBuffer::around_pos(&mut plain, start);
            self.0.run(&mut input, &mut output)?;
            let room_left = output.pos() < output.capacity();
            if plain.len() > limit {
                return Err(io::Error::other(format!("a frame becomes more than {limit} bytes")));
            }
            // Output that did not fill its room is all there is to these bytes.
            if room_left && input.pos() == payload.len() {
                return Ok(plain);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize, mut state: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.extend_from_slice(&(state >> 16).to_le_bytes()[..4]);
        }
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn what_was_sent_long_ago_costs_next_to_nothing() {
        let (mut encoder, mut decoder) = (StreamEncoder::new(1).unwrap(), StreamDecoder::new().unwrap());
        let mut sizes = Vec::new();
        // The first again after sixteen mebibytes of others.
        let order = (0..64).chain([0]);
        for seed in order {
            let plain = noise(256 << 10, seed + 1);
            let mut packed = Vec::new();
            encoder.compress(&plain, &mut packed).unwrap();
            assert!(decoder.decompress(&packed, 1 << 20).unwrap() == plain);
            sizes.push(packed.len());
        }
        assert!(sizes[0] > 250_000 && sizes[64] < 10_000, "{sizes:?}");
    }

    #[test]
    fn every_length_comes_back() {
        let (mut encoder, mut decoder) = (StreamEncoder::new(1).unwrap(), StreamDecoder::new().unwrap());
        for length in [0, 1, 200, 131_071, 131_072, 131_073, 1 << 20] {
            for plain in [vec![7; length], noise(length, 3)] {
                let mut packed = Vec::new();
                encoder.compress(&plain, &mut packed).unwrap();
                assert!(decoder.decompress(&packed, 1 << 20).unwrap() == plain, "{length}");
            }
        }
    }

    #[test]
    fn a_little_that_becomes_much_is_turned_away() {
        let mut encoder = StreamEncoder::new(1).unwrap();
        let mut packed = Vec::new();
        encoder.compress(&vec![0; 64 << 20], &mut packed).unwrap();
        assert!(packed.len() < 1 << 20);
        assert!(StreamDecoder::new().unwrap().decompress(&packed, 1 << 20).is_err());
        assert!(StreamDecoder::new().unwrap().decompress(&noise(4096, 9), 1 << 20).is_err());
    }
}
