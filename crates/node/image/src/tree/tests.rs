use super::*;

fn tar(tree: &Tree) -> Vec<u8> {
    let mut out = Vec::new();
    tree.write_tar(&mut out).unwrap();
    out
}

fn file(content: &[u8]) -> Node {
    Node::File { mode: 0o644, content: content.to_vec() }
}

#[test]
fn parents_are_made_and_never_replaced() {
    let mut tree = Tree::default();
    tree.add("/a", Node::Dir { mode: 0o700 }).unwrap();
    tree.add("/a/b/c", file(b"x")).unwrap();
    assert_eq!(tree.nodes.get("/a"), Some(&Node::Dir { mode: 0o700 }));
    assert_eq!(tree.nodes.get("/a/b"), Some(&Node::Dir { mode: 0o755 }));
    assert_eq!(tree.add("/a/b/c/d", file(b"")).unwrap_err(), "/a/b/c/d lies in /a/b/c, which is no directory");
    assert_eq!(tree.add("/a/b/c", file(b"")).unwrap_err(), "/a/b/c is there twice");
}

#[test]
fn the_order_of_adding_does_not_matter() {
    let (mut one, mut two) = (Tree::default(), Tree::default());
    let nodes = [("/b", file(b"1")), ("/a/x", file(b"2")), ("/a", Node::Dir { mode: 0o1777 })];
    for (path, node) in nodes.clone() {
        one.add(path, node).unwrap();
    }
    for (path, node) in nodes.into_iter().rev() {
        two.add(path, node).unwrap();
    }
    assert_eq!(tar(&one), tar(&two));
}

#[test]
fn long_names_are_split_where_tar_can() {
    let name = format!("{}/{}", "d".repeat(120), "f".repeat(90));
    let block = header(&name, b'0', 0o644, 0, "").unwrap();
    assert_eq!(&block[..90], "f".repeat(90).as_bytes());
    assert_eq!(&block[345..465], "d".repeat(120).as_bytes());
    for bad in ["f".repeat(101), format!("{}/x", "d".repeat(200))] {
        assert!(header(&bad, b'0', 0, 0, "").is_err(), "{bad}");
    }
}

#[test]
fn blocks_are_whole_and_sums_right() {
    let mut tree = Tree::default();
    tree.add("/f", file(&[7; 513])).unwrap();
    let bytes = tar(&tree);
    assert_eq!(bytes.len(), 512 + 1024 + 1024);
    let stored = u32::from_str_radix(std::str::from_utf8(&bytes[148..154]).unwrap(), 8).unwrap();
    let sum: u32 =
        bytes[..512].iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
    assert_eq!(stored, sum);
}
