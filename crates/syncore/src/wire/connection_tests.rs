//! Tests of connections.

use std::time::Instant;

use super::*;
use crate::monitor::{Monitor, Silent};
use crate::wire::compress::{StreamDecoder, StreamEncoder};
use crate::wire::frame::{FRAME_LIMIT_BYTES, HEADER_BYTES, STREAMED, put_header};
use crate::wire::pair;
use crate::wire::state::HURRIED;

const SOON: Duration = Duration::from_secs(4);

fn data() -> Message {
    Message::Data(vec![7; 256 << 10])
}

/// An end whose peer greets and then neither reads nor says anything.
fn with_stopped_peer(timeout: Duration) -> (Connection, ByteStream) {
    let (here, mut there) = pair().unwrap();
    there.writer.write_all(&greeting()).unwrap();
    (Connection::over(here, Compression::Off, None, timeout).unwrap(), there)
}

fn send_until_error(mut outgoing: Outgoing, lane: u8) -> WireError {
    loop {
        if let Err(error) = outgoing.send(lane, data()) {
            return error;
        }
    }
}

#[test]
fn a_stopped_peer_ends_writes_and_reads_by_the_deadline() {
    let started = Instant::now();
    let (mut connection, _there) = with_stopped_peer(Duration::from_secs(1));
    std::thread::scope(|scope| {
        let sending = [1, 2].map(|lane| {
            let outgoing = connection.outgoing.clone();
            scope.spawn(move || send_until_error(outgoing, lane))
        });
        let received = connection.lanes[0].receive(&Silent);
        assert!(matches!(received, Err(WireError::Timeout { seconds: 1 })), "{received:?}");
        for sending in sending {
            let error = sending.join().unwrap();
            assert!(matches!(error, WireError::Timeout { seconds: 1 }), "{error:?}");
        }
    });
    assert!(connection.close().is_none());
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

#[test]
fn a_write_alone_ends_by_the_deadline() {
    let started = Instant::now();
    let (connection, _there) = with_stopped_peer(Duration::from_secs(1));
    let error = send_until_error(connection.outgoing.clone(), 1);
    assert!(matches!(error, WireError::Timeout { seconds: 1 }), "{error:?}");
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

#[test]
fn an_interrupted_run_does_not_wait_for_a_stopped_peer() {
    struct Interrupted;
    impl Monitor for Interrupted {
        fn cancelled(&self) -> bool {
            true
        }
    }
    let started = Instant::now();
    let (mut connection, _there) = with_stopped_peer(Duration::from_secs(600));
    let outgoing = connection.outgoing.clone();
    let sending = std::thread::spawn(move || send_until_error(outgoing, 1));
    assert!(matches!(connection.lanes[0].receive(&Interrupted), Err(WireError::Cancelled)));
    assert!(matches!(sending.join().unwrap(), WireError::Cancelled));
    assert!(started.elapsed() < HURRIED + SOON, "{:?}", started.elapsed());
}

/// Two ends with more frames for lane 1 on the way than it holds, and one for lane 2 behind them.
fn with_a_full_lane() -> (Connection, std::thread::JoinHandle<Connection>) {
    let (here, there) = pair().unwrap();
    let timeout = Duration::from_secs(600);
    let greeting = std::thread::spawn(move || Connection::over(there, Compression::Off, None, timeout));
    let here = Connection::over(here, Compression::Off, None, timeout).unwrap();
    let mut there = greeting.join().unwrap().unwrap();
    let sending = std::thread::spawn(move || {
        for _ in 0..4 * LANE_DEPTH {
            there.outgoing.send(1, data()).unwrap();
        }
        there.outgoing.send(2, Message::LaneEnd).unwrap();
        there
    });
    (here, sending)
}

#[test]
fn a_closed_lane_does_not_hold_the_others_up() {
    let (mut here, sending) = with_a_full_lane();
    here.lanes[1].fail(&WireError::Lost("this one only".to_owned()));
    assert!(matches!(here.lanes[2].receive(&Silent), Ok(Message::LaneEnd)));
    assert!(matches!(here.lanes[1].receive(&Silent), Err(WireError::Lost(_))));
    sending.join().unwrap();
}

#[test]
fn what_ends_one_lane_ends_the_others_and_the_peer_can_be_told() {
    let started = Instant::now();
    let (mut here, sending) = with_a_full_lane();
    let mut control = here.lanes.remove(0);
    let waiting = std::thread::spawn(move || control.receive(&Silent));
    here.lanes[0].fail(&WireError::Protocol("nonsense".to_owned()));
    assert!(matches!(waiting.join().unwrap(), Err(WireError::Protocol(_))));
    here.outgoing.send(CONTROL, Message::LaneEnd).unwrap();
    let mut there = sending.join().unwrap();
    assert!(matches!(there.lanes[0].receive(&Silent), Ok(Message::LaneEnd)));
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

fn connected() -> (Connection, Connection) {
    let (a, b) = pair().unwrap();
    let over = |stream| Connection::over(stream, Compression::Auto, None, Duration::from_secs(20));
    let other = std::thread::spawn(move || over(b).unwrap());
    (over(a).unwrap(), other.join().unwrap())
}

#[test]
fn signs_of_life_do_not_fill_a_lane_that_nobody_reads() {
    let (mut here, mut there) = connected();
    for _ in 0..10 * LANE_DEPTH {
        here.outgoing.send(CONTROL, Message::Alive).unwrap();
    }
    here.outgoing.send(1, Message::Data(vec![7; 9])).unwrap();
    assert_eq!(there.lanes[1].receive(&Silent).unwrap(), Message::Data(vec![7; 9]));
}

#[test]
fn messages_arrive_as_they_were_sent_compressed_or_not() {
    let (mut here, mut there) = connected();
    let noise: Vec<u8> = (0..100_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
    for message in [Message::Data(vec![1; 300_000]), Message::Data(noise), Message::Hole(u64::MAX)] {
        here.outgoing.send(2, message.clone()).unwrap();
        assert_eq!(there.lanes[2].receive(&Silent).unwrap(), message);
    }
    assert!(here.traffic.sent_bytes() < 110_000);
}

#[test]
fn the_content_of_a_lane_is_read_without_that_of_the_other() {
    let (here, mut there) = pair().unwrap();
    there.writer.write_all(&greeting()).unwrap();
    let mut here = Connection::over(here, Compression::Auto, None, Duration::from_secs(20)).unwrap();
    let message = |number: u8| Message::Data(vec![number; 50_000]);
    for number in 0..10 {
        here.outgoing.send(1 + number % 2, message(number)).unwrap();
    }
    assert!(here.close().is_none());
    let mut bytes = Vec::new();
    there.reader.read_to_end(&mut bytes).unwrap();
    let (mut rest, mut decoder, mut heard) =
        (&bytes[greeting().len()..], StreamDecoder::new().unwrap(), vec![]);
    while !rest.is_empty() {
        let (header, behind) = rest.split_at(HEADER_BYTES);
        let (payload, behind) = behind.split_at(u32::from_le_bytes(header[..4].try_into().unwrap()) as usize);
        if header[4..] == [2, STREAMED] {
            let plain = decoder.decompress(payload, FRAME_LIMIT_BYTES).unwrap();
            heard.push(postcard::from_bytes::<Message>(&plain).unwrap());
        }
        rest = behind;
    }
    assert_eq!(heard, [1, 3, 5, 7, 9].map(message));
}

#[test]
fn a_lane_on_which_several_threads_send_stays_in_step() {
    let (here, mut there) = connected();
    let message = |number: u8| Message::Data(vec![number; 30_000]);
    let sending: Vec<_> = [1, 1, 2]
        .into_iter()
        .map(|lane| {
            let mut outgoing = here.outgoing.clone();
            std::thread::spawn(move || {
                (0..50).for_each(|number| outgoing.send(lane, message(number)).unwrap());
            })
        })
        .collect();
    let receiving = [(2, 50), (1, 100)].map(|(lane, count)| {
        let mut lane = there.lanes.remove(lane);
        std::thread::spawn(move || {
            let mut heard = [0; 50];
            for _ in 0..count {
                let Message::Data(data) = lane.receive(&Silent).unwrap() else { panic!() };
                assert_eq!(Message::Data(data.clone()), message(data[0]));
                heard[usize::from(data[0])] += 1;
            }
            heard
        })
    });
    sending.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(receiving.map(|thread| thread.join().unwrap()), [[1; 50], [2; 50]]);
}

#[test]
fn what_becomes_too_much_ends_every_lane() {
    let mut packed = vec![0; HEADER_BYTES];
    let mut encoder = StreamEncoder::new(Some(1)).unwrap();
    encoder.compress(&vec![0; 64 << 20], &mut packed).unwrap();
    for (lane, why) in [(1, "becomes more than"), (CONTROL, "content on the lane of the conversation")] {
        put_header(&mut packed, lane, STREAMED);
        let (here, mut there) = pair().unwrap();
        there.writer.write_all(&greeting()).unwrap();
        there.writer.write_all(&packed).unwrap();
        let mut here = Connection::over(here, Compression::Auto, None, Duration::from_secs(20)).unwrap();
        for lane in [1, 2, 0] {
            let received = here.lanes[lane].receive(&Silent);
            assert!(
                matches!(&received, Err(WireError::Protocol(said)) if said.contains(why)),
                "{received:?}"
            );
        }
    }
}

#[test]
fn the_rate_holds_for_all_lanes_together() {
    let (a, b) = pair().unwrap();
    let over =
        |stream, rate| Connection::over(stream, Compression::Off, rate, Duration::from_secs(20)).unwrap();
    let there = std::thread::spawn(move || over(b, None));
    let here = over(a, Some(1 << 20));
    let mut there = there.join().unwrap();
    let started = Instant::now();
    let sending = [1, 2].map(|lane| {
        let mut outgoing = here.outgoing.clone();
        std::thread::spawn(move || (0..3).for_each(|_| outgoing.send(lane, data()).unwrap()))
    });
    for lane in [1, 2] {
        (0..3).for_each(|_| assert_eq!(there.lanes[lane].receive(&Silent).unwrap(), data()));
    }
    for thread in sending {
        thread.join().unwrap();
    }
    // Six times a quarter of a second, of which nobody waits for the last.
    assert!(started.elapsed() >= Duration::from_millis(1250), "{:?}", started.elapsed());
}

#[test]
fn a_message_that_does_not_fit_a_frame_is_an_error_and_not_a_broken_stream() {
    let (mut here, mut there) = connected();
    let long = Message::Data(vec![0; FRAME_LIMIT_BYTES + 1]);
    assert!(matches!(here.outgoing.send(1, long), Err(WireError::Protocol(_))));
    here.outgoing.send(1, Message::LaneEnd).unwrap();
    assert_eq!(there.lanes[1].receive(&Silent).unwrap(), Message::LaneEnd);
}

#[test]
fn garbage_ends_in_an_error_that_names_it() {
    let greeted = |bytes: &'static [u8]| {
        let stream = ByteStream {
            reader: Box::new(bytes),
            writer: Box::new(std::io::sink()),
            finish: Box::new(|| None),
            abort: Arc::new(|| ()),
        };
        Connection::over(stream, Compression::Off, None, Duration::from_secs(5)).map(|_| ())
    };
    assert!(
        matches!(greeted(b"Welcome to this host\n"), Err(WireError::NoAgent { heard }) if heard.contains("Welcome"))
    );
    assert!(
        matches!(greeted(b"\x7fclonetool-wire\n\x63\x00\x039.9"), Err(WireError::Version { theirs, .. }) if theirs.contains("9.9"))
    );
    assert!(matches!(greeted(b""), Err(WireError::Lost(_))));
    let mut frames = greeting();
    frames.extend_from_slice(&[0xff, 0xff, 0xff, 0x7f, 0, 0]);
    let stream = ByteStream {
        reader: Box::new(std::io::Cursor::new(frames)),
        writer: Box::new(std::io::sink()),
        finish: Box::new(|| None),
        abort: Arc::new(|| ()),
    };
    let mut connection = Connection::over(stream, Compression::Off, None, Duration::from_secs(5)).unwrap();
    assert!(matches!(connection.lanes[0].receive(&Silent), Err(WireError::Protocol(_))));
}
