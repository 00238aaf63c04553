//! One zstd stream for the content of a lane.
//!
//! Why: the files of a system repeat each other, and a stream that remembers what it saw, over [`WINDOW_LOG`], leaves a
//! quarter less than compressing frame by frame; long-distance matching finds repetitions at the speed of the lowest levels
//! (zstd manual, `ZSTD_c_enableLongDistanceMatching`). Where the link is what everything waits for, the level rises.
//! What can go wrong: a peer that sends a little that becomes much; what one frame may become is limited, and so is the
//! window that is set aside.

use std::io;
use std::time::{Duration, Instant};

use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, InBuffer, Operation, OutBuffer};

/// The binary logarithm of how many bytes back a repetition is found. Both ends hold that much for each lane.
const WINDOW_LOG: u32 = 24;

/// Bytes of output asked for at once.
const STEP_BYTES: usize = 128 * 1024;

/// The level that is used until something speaks for another.
const FAST_LEVEL: i32 = 2;

/// The level for a link that is slower than this level compresses.
const SLOW_LINK_LEVEL: i32 = 6;

/// How much is compressed before the link is judged: no pipe and no socket holds so much.
const JUDGED_BYTES: u64 = 16 << 20;

/// How many times as long as compressing the writing has to take for the link to be called slow: the higher level costs
/// some three times as much as the lower.
const SLOW_LINK: u32 = 4;

/// How many times as long as compressing the writing has to take for the higher level to stay. Below that it is what
/// everything waits for: the link is not slow, or a busy host let its peer wait and now waits for the compression.
const STILL_SLOW: u32 = 1;

/// Compresses the payloads of a lane's content, in the order in which they are sent.
pub(super) struct StreamEncoder {
    encoder: Encoder<'static>,
    /// None once the level stands.
    trial: Option<Trial>,
}

/// What is known of the link since the level was last chosen.
#[derive(Default)]
struct Trial {
    /// Whether the level is the higher one.
    raised: bool,
    plain_bytes: u64,
    compressing: Duration,
    writing: Duration,
}

impl StreamEncoder {
    /// An encoder of that level, or of one that suits the link.
    pub(super) fn new(level: Option<i32>) -> io::Result<Self> {
        let encoder = encoder(level.unwrap_or(FAST_LEVEL))?;
        Ok(Self { encoder, trial: level.is_none().then(Trial::default) })
    }

    /// Appends to `into` what `plain` becomes, all of it.
    pub(super) fn compress(&mut self, plain: &[u8], into: &mut Vec<u8>) -> io::Result<()> {
        let started = Instant::now();
        if self.trial.as_ref().is_some_and(Trial::is_over) {
            self.judge(into)?;
        }
        let mut input = InBuffer::around(plain);
        while input.pos() < plain.len() {
            let start = into.len();
            into.reserve(STEP_BYTES);
            self.encoder.run(&mut input, &mut OutBuffer::around_pos(into, start))?;
        }
        drain(into, |output| self.encoder.flush(output))?;
        if let Some(trial) = &mut self.trial {
            trial.plain_bytes += plain.len() as u64;
            trial.compressing += started.elapsed();
        }
        Ok(())
    }

    /// Raises the level where the link is slow, and lowers it for good where it is not, or not any more.
    fn judge(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        let Some(Trial { raised, compressing, writing, .. }) = self.trial.take() else { return Ok(()) };
        let raise = writing > compressing * if raised { STILL_SLOW } else { SLOW_LINK };
        if raise != raised {
            // What is remembered is lost; the decoder goes from one zstd frame to the next by itself.
            drain(into, |output| self.encoder.finish(output, true))?;
            self.encoder = encoder(if raise { SLOW_LINK_LEVEL } else { FAST_LEVEL })?;
        }
        self.trial = raise.then(|| Trial { raised: true, ..Trial::default() });
        Ok(())
    }

    /// Hears how long it took to write what was compressed.
    pub(super) fn written(&mut self, elapsed: Duration) {
        if let Some(trial) = &mut self.trial {
            trial.writing += elapsed;
        }
    }
}

impl Trial {
    fn is_over(&self) -> bool {
        self.plain_bytes >= JUDGED_BYTES
    }
}

fn encoder(level: i32) -> io::Result<Encoder<'static>> {
    let mut encoder = Encoder::new(level)?;
    encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
    encoder.set_parameter(CParameter::EnableLongDistanceMatching(true))?;
    Ok(encoder)
}

/// Repeats `step`, which says how much is left, until nothing is.
fn drain(
    into: &mut Vec<u8>,
    mut step: impl FnMut(&mut OutBuffer<'_, Vec<u8>>) -> io::Result<usize>,
) -> io::Result<()> {
    loop {
        let start = into.len();
        into.reserve(STEP_BYTES);
        if step(&mut OutBuffer::around_pos(into, start))? == 0 {
            return Ok(());
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
        let (mut encoder, mut decoder) =
            (StreamEncoder::new(Some(1)).unwrap(), StreamDecoder::new().unwrap());
        let mut sizes = Vec::new();
        // The first again after ten mebibytes of others.
        let order = (0..40).chain([0]);
        for seed in order {
            let plain = noise(256 << 10, seed + 1);
            let mut packed = Vec::new();
            encoder.compress(&plain, &mut packed).unwrap();
            assert!(decoder.decompress(&packed, 1 << 20).unwrap() == plain);
            sizes.push(packed.len());
        }
        assert!(sizes[0] > 250_000 && sizes[40] < 10_000, "{sizes:?}");
    }

    #[test]
    fn every_length_comes_back() {
        let (mut encoder, mut decoder) =
            (StreamEncoder::new(Some(1)).unwrap(), StreamDecoder::new().unwrap());
        for length in [0, 1, 200, 131_071, 131_072, 131_073, 1 << 20] {
            for plain in [vec![7; length], noise(length, 3)] {
                let mut packed = Vec::new();
                encoder.compress(&plain, &mut packed).unwrap();
                assert!(decoder.decompress(&packed, 1 << 20).unwrap() == plain, "{length}");
            }
        }
    }

    /// Something like a manual: phrases from a list that a low level has forgotten when they come again.
    fn text(length: usize, seed: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 32);
        for number in noise(length, seed).chunks(2) {
            let number = u64::from(u16::from_le_bytes([number[0], *number.last().unwrap()]) % 20_000);
            bytes.extend(noise(12 + number as usize % 12, number + 1).iter().map(|b| b'a' + b % 26));
            bytes.push(b' ');
            if bytes.len() >= length {
                break;
            }
        }
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn a_slow_link_is_worth_more_work_and_a_fast_one_is_not() {
        let last_bytes = |slow_until: u64| {
            let mut encoder = StreamEncoder::new(None).unwrap();
            let mut decoder = StreamDecoder::new().unwrap();
            let mut last = 0;
            for number in 0..136 {
                let plain = text(256 << 10, number + 1);
                let mut packed = Vec::new();
                encoder.compress(&plain, &mut packed).unwrap();
                encoder.written(Duration::from_secs(if number < slow_until { 10 } else { 0 }));
                assert!(decoder.decompress(&packed, 1 << 20).unwrap() == plain);
                last = packed.len();
            }
            last
        };
        let (slow, fast, recovered) = (last_bytes(u64::MAX), last_bytes(0), last_bytes(64));
        assert!(slow * 10 < fast * 9, "{slow} {fast}");
        // A host that was busy for a while, or a link that was: the work is taken back.
        assert!(slow * 10 < recovered * 9, "{slow} {recovered}");
    }

    #[test]
    fn a_little_that_becomes_much_is_turned_away() {
        let mut encoder = StreamEncoder::new(Some(1)).unwrap();
        let mut packed = Vec::new();
        encoder.compress(&vec![0; 64 << 20], &mut packed).unwrap();
        assert!(packed.len() < 1 << 20);
        assert!(StreamDecoder::new().unwrap().decompress(&packed, 1 << 20).is_err());
        assert!(StreamDecoder::new().unwrap().decompress(&noise(4096, 9), 1 << 20).is_err());
    }
}
