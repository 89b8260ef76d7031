//! Whether a node with an empty store founds a cluster. Pure.
//!
//! **Invariant:** one list of peers makes one cluster. A node founds one only if no peer that answers belongs to one,
//! *and* a majority of the list (itself included) answers and is as empty as it is, *and* it has the lowest address of
//! the whole list, whether or not the others answer. Two founders would both have to be the lowest; a founder whose disk
//! was wiped meets members, or finds no majority of empty nodes. The price: the first start of all waits for the node with
//! the lowest address. A list that holds only the node itself is a cluster of one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// What a peer answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Its own idea of its address.
    pub(crate) addr: SocketAddr,
    pub(crate) member: bool,
    /// The peers of its list, if it is as empty as we are.
    pub(crate) listed: BTreeSet<SocketAddr>,
    /// It is this node, under another address.
    pub(crate) is_self: bool,
}

/// What an empty node does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Found,
    /// There is a cluster: it adds nodes that call it.
    Join,
    Wait(&'static str),
}

pub(crate) fn step(me: SocketAddr, listed: &BTreeSet<SocketAddr>, answers: &BTreeMap<SocketAddr, Answer>) -> Step {
    if answers.values().any(|a| a.member && !a.is_self) {
        return Step::Join;
    }
    // Every node under the address that it gives itself.
    let canonical = |addr: &SocketAddr| match answers.get(addr) {
        Some(answer) if answer.is_self => me,
        Some(answer) => answer.addr,
        None => *addr,
    };
    let others = answers.values().filter(|a| !a.is_self);
    let mut all: BTreeSet<SocketAddr> = listed.iter().map(canonical).collect();
    all.insert(me);
    for answer in others.clone() {
        all.extend(answer.listed.iter().map(canonical));
    }
    let empty: BTreeSet<SocketAddr> = others.map(|a| a.addr).filter(|a| all.contains(a)).chain([me]).collect();
    if all.first() != Some(&me) {
        return Step::Wait("the node with the lowest address of the list begins");
    }
    if empty.len() * 2 <= all.len() { Step::Wait("most nodes of the list do not answer") } else { Step::Found }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u8) -> SocketAddr {
        ([10, 0, 0, n], 1111).into()
    }

    fn set(list: &[u8]) -> BTreeSet<SocketAddr> {
        list.iter().copied().map(addr).collect()
    }

    #[test]
    fn one_list_makes_one_cluster() {
        let empty =
            |n, listed: &[u8]| (n, Answer { addr: addr(n), member: false, listed: set(listed), is_self: false });
        let member = |n| (n, Answer { addr: addr(n), member: true, listed: BTreeSet::new(), is_self: false });
        let alias = |n| (n, Answer { addr: addr(1), member: false, listed: set(&[]), is_self: true });
        let all = &[1, 2, 3];
        let lowest = Step::Wait("the node with the lowest address of the list begins");
        let majority = Step::Wait("most nodes of the list do not answer");
        for (name, me, listed, answers, expected) in [
            ("alone, no list", 1, vec![], vec![], Step::Found),
            ("alone, own address listed", 1, vec![1], vec![], Step::Found),
            ("alone, listed under another address", 1, vec![1, 9], vec![alias(9)], Step::Found),
            ("the lowest, all empty", 1, vec![1, 2, 3], vec![empty(2, all), empty(3, all)], Step::Found),
            ("the lowest, list without itself", 1, vec![2, 3], vec![empty(2, all), empty(3, all)], Step::Found),
            ("the lowest, one of three silent", 1, vec![1, 2, 3], vec![empty(2, all)], Step::Found),
            ("the lowest, half of two silent", 1, vec![1, 2], vec![], majority),
            ("not the lowest", 2, vec![1, 2, 3], vec![empty(1, all), empty(3, all)], lowest),
            (
                "not the lowest, the lowest silent",
                2,
                vec![1, 2, 3],
                vec![empty(3, all)],
                Step::Wait("the node with the lowest address of the list begins"),
            ),
            ("wiped, meets a member", 1, vec![1, 2, 3], vec![empty(2, all), member(3)], Step::Join),
            (
                "wiped, the members are away",
                1,
                vec![1, 2, 3],
                vec![],
                Step::Wait("most nodes of the list do not answer"),
            ),
            (
                "a peer knows a lower one",
                2,
                vec![2, 3],
                vec![empty(3, all)],
                Step::Wait("the node with the lowest address of the list begins"),
            ),
        ] {
            let answers = answers.into_iter().map(|(n, a)| (addr(n), a)).collect();
            assert_eq!(step(addr(me), &set(&listed), &answers), expected, "{name}");
        }
    }
}
