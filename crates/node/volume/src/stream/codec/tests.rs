use proptest::prelude::*;

use super::*;

fn header() -> Header {
    Header { name: "snap".into(), base: Some("older".into()) }
}

fn encode(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&mut out, &header()).unwrap();
    for item in items {
        encoder.item(item).unwrap();
    }
    encoder.finish().unwrap();
    out
}

fn decode(bytes: &[u8]) -> Result<(Header, Vec<Item>), StreamError> {
    let (mut decoder, header) = Decoder::new(bytes)?;
    let mut items = Vec::new();
    while let Some(item) = decoder.item()? {
        items.push(item);
    }
    Ok((header, items))
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec("[a-z\u{80}-\u{ff}]{1,8}", 1..4).prop_map(|parts| parts.join("/").into_bytes())
}

fn item() -> impl Strategy<Value = Item> {
    let kind = prop_oneof![
        Just(Kind::Dir),
        (0..=i64::MAX.cast_unsigned(), any::<bool>()).prop_map(|(size_bytes, patch)| Kind::File { size_bytes, patch }),
        prop::collection::vec(any::<u8>(), 0..50).prop_map(|target| Kind::Symlink { target }),
        (any::<bool>(), any::<u32>(), any::<u32>()).prop_map(|(character, major, minor)| Kind::Device {
            character,
            major,
            minor
        }),
        Just(Kind::Fifo),
        Just(Kind::Socket),
        path().prop_map(|to| Kind::HardLink { to }),
    ];
    let xattr = ("[a-z.]{1,20}", prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(k, v)| (k.into_bytes(), v));
    let entry = (
        path(),
        kind,
        0..=0o7777_u32,
        any::<(u32, u32, i64)>(),
        0..1_000_000_000_u32,
        prop::collection::vec(xattr, 0..3),
    )
        .prop_map(|(path, kind, mode, (uid, gid, secs), nanos, xattrs)| {
            Item::Entry(Entry { path, kind, mode, uid, gid, secs, nanos, xattrs })
        });
    prop_oneof![
        entry,
        (any::<u64>(), prop::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(offset, bytes)| Item::Data { offset, bytes }),
        any::<(u64, u64)>().prop_map(|(offset, len)| Item::Hole { offset, len }),
        path().prop_map(|path| Item::Remove { path }),
    ]
}

proptest! {
    #[test]
    fn what_was_written_is_read(items in prop::collection::vec(item(), 0..20)) {
        let (got_header, got) = decode(&encode(&items)).unwrap();
        prop_assert_eq!(got_header, header());
        prop_assert_eq!(got, items);
    }

    #[test]
    fn a_stream_cut_anywhere_is_an_error(items in prop::collection::vec(item(), 0..5), cut in any::<prop::sample::Index>()) {
        let bytes = encode(&items);
        prop_assert!(decode(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn a_changed_bit_is_an_error(
        items in prop::collection::vec(item(), 0..5),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let mut bytes = encode(&items);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let _ = decode(&[MAGIC, &bytes].concat());
        let _ = decode(&bytes);
    }
}

#[test]
fn paths_that_leave_the_tree_are_refused() {
    for path in ["/etc/passwd", "../x", "a/../../b", "a//b", "./a", "a\0b"] {
        let err = decode(&encode(&[Item::Remove { path: path.into() }])).unwrap_err();
        assert_eq!(err.to_string(), "snapshot stream: a path leaves the volume", "{path:?}");
    }
}
