use proptest::prelude::*;

use super::*;

fn receiver(bytes: &[u8]) -> Receiver<&[u8]> {
    Receiver { input: bytes, frames: Arc::default() }
}

fn read_all(peer: Peer) -> (bool, Vec<u8>) {
    let (is_image, mut reader) = match peer {
        Peer::Image(reader) => (true, reader),
        Peer::Run(reader) => (false, reader),
    };
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    (is_image, rest)
}

#[test]
fn the_first_words_decide_and_a_run_loses_none_of_them() {
    let sniffed = |bytes: &'static [u8]| read_all(sniff(Box::new(bytes)).unwrap());
    assert_eq!(sniffed(b"\x7fclonetool-image\x01\x00"), (true, b"\x01\x00".to_vec()));
    for other in
        [&b"\x7fclonetool-wire\n\x01"[..], b"", b"\x7f", b"\x7fclonetool-imag", b"rubbish of any length"]
    {
        assert_eq!(sniffed(other), (false, other.to_vec()));
    }
}

#[test]
fn what_is_no_frame_of_ours_is_refused_before_it_takes_memory() {
    let refused = |bytes: &[u8]| receiver(bytes).next(&mut Vec::new()).expect_err("it was taken").to_string();
    assert!(refused(&[3, 0xff, 0xff, 0xff, 0xff]).contains("beyond the limit"));
    assert!(refused(&[99, 0, 0, 0, 0]).contains("unknown frame"));
    assert!(refused(&[3, 4, 0, 0, 0, b'x']).contains("ends too early"));
    let mut failed = Sender(Vec::new());
    failed.value(Tag::Failed, &Failure::Refused("no".to_owned())).unwrap();
    assert_eq!(refused(&failed.0), "refused: no");
}

#[test]
fn an_agent_without_images_is_named_as_one() {
    let greeted = |bytes: &[u8]| receiver(bytes).greeting(true).expect_err("it was taken").to_string();
    assert!(greeted(b"\x7fclonetool-wire\n\x01\x00").contains("versions do not match"));
    assert!(greeted(b"Welcome to the host!\n").contains("Welcome to the"));
    assert!(greeted(b"\x7fclonetool-image\x09\x00").contains("versions do not match"));
}

proptest! {
    #[test]
    fn arbitrary_frames_are_no_reason_to_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        tag in 0_u8..10,
    ) {
        let mut frame = vec![tag];
        frame.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
        frame.extend_from_slice(&bytes);
        let _ = receiver(&frame).reply(&crate::monitor::Silent);
        let _ = receiver(&bytes).reply(&crate::monitor::Silent);
        let mut frames = receiver(&frame);
        let _ = read(&mut Arriving::new(&mut frames, None), &mut Nothing, &crate::monitor::Silent);
    }
}
