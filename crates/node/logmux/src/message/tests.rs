use proptest::prelude::*;

use super::*;

fn frame(text: &[u8]) -> Vec<u8> {
    let source = Source::new("host1", "5f2c6f0e-8f2b-4a3e-9d0a-3f6f3c1f7b11", "web", "host1-abc");
    let mut out = Vec::new();
    write_frame(&mut out, &mut Clock::default(), &source, 1_700_000_000_000_042, 7, 2, text);
    out
}

#[test]
fn a_message_is_written_as_the_spec_says() {
    let expected = "117 <190>1 2023-11-14T22:13:20.000042Z host1 5f2c6f0e-8f2b-4a3e-9d0a-3f6f3c1f7b11 web.host1-abc ID2 \
                    [flynn seq=\"7\"] hello\n";
    assert_eq!(String::from_utf8(frame(b"hello")).unwrap(), expected);
    let bare = Source::new("h", "", "", "j");
    let mut out = Vec::new();
    write_frame(&mut out, &mut Clock::default(), &bare, 0, 1, 1, b"");
    assert_eq!(String::from_utf8(out).unwrap(), "60 <190>1 1970-01-01T00:00:00.000000Z h - j ID1 [flynn seq=\"1\"]\n");
}

#[test]
fn header_fields_cannot_break_out() {
    let source = Source::new("h", "a b\nc", "we b.x", "job.1");
    let mut out = Vec::new();
    write_frame(&mut out, &mut Clock::default(), &source, 0, 1, 1, b"x y");
    let Frame::Whole(range, _) = first_frame(&out) else { panic!() };
    let message = Message::parse(&out[range]).unwrap();
    assert_eq!((message.app, message.job(), message.text), ("a_b_c", ("job.1", "we_b_x"), &b"x y"[..]));
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        micros in 0i64..4_000_000_000_000_000,
        seq: u32,
        stream in 1u8..4,
        text in prop::collection::vec(any::<u8>(), 0..10_000),
    ) {
        let source = Source::new("host1", "app", "", "host1-abc");
        let mut out = Vec::new();
        write_frame(&mut out, &mut Clock::default(), &source, micros, seq, stream, &text);
        prop_assert!(out.len() <= FRAME_LEN);
        let Frame::Whole(range, len) = first_frame(&out) else { panic!() };
        prop_assert_eq!(len, out.len());
        let message = Message::parse(&out[range]).unwrap();
        prop_assert_eq!((message.micros, message.seq, message.stream()), (micros, seq, stream));
        prop_assert_eq!(message.job(), ("host1-abc", ""));
        prop_assert!(message.text == text || text.first() == Some(&b' '));
        for cut in [1, out.len() / 2, out.len() - 1] {
            prop_assert_eq!(first_frame(&out[..cut]), Frame::Cut);
        }
    }

    #[test]
    fn no_bytes_harm_the_parsers(bytes in prop::collection::vec(any::<u8>(), 0..300), changed in 0usize..120, byte: u8) {
        let mut count = 0;
        let used = frames(&bytes, |message| count += usize::from(Message::parse(message).is_some()));
        prop_assert!(used <= bytes.len() && count == 0);
        let mut frame = frame(b"hello");
        if let Some(place) = frame.get_mut(changed) {
            *place = byte;
        }
        frames(&frame, |message| { Message::parse(message); });
    }

    /// Garbage between frames costs no frame behind it.
    #[test]
    fn reading_goes_on_behind_garbage(garbage in "[a-z][a-z0-9 ]{0,49}") {
        let bytes = [garbage.as_bytes(), b"\n", &frame(b"one"), &frame(b"two")].concat();
        let mut texts = Vec::new();
        let used = frames(&bytes, |message| texts.extend(Message::parse(message).map(|message| message.text.to_vec())));
        prop_assert!(used == bytes.len() && texts.ends_with(&[b"two".to_vec()]), "{texts:?}");
    }
}
