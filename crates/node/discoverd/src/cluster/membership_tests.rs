//! Tables for `reconcile`.

use super::*;

fn node(host: &str, silence: u64) -> Node {
    Node { member: member(host), silence: Duration::from_secs(silence), caught_up: true }
}

fn member(host: &str) -> Member {
    Member { addr: format!("10.0.0.{}:1111", &host[1..]), host: host.to_owned() }
}

/// Node 1 leads; member `n` runs on host `hn` and was silent for the given seconds.
fn world(voters: &[u64], members: &[(u64, u64)]) -> World {
    World {
        me: 1,
        voters: voters.iter().copied().collect(),
        members: members.iter().map(|(id, silence)| (*id, node(&format!("h{id}"), *silence))).collect(),
        replace_after: Duration::from_secs(60),
        forget_after: Duration::from_secs(3600),
        ..World::default()
    }
}

fn voters(list: &[u64]) -> Option<Change> {
    Some(Change::Voters(list.iter().copied().collect()))
}

impl World {
    fn pinned(mut self, host: &str, pin: Pin) -> Self {
        self.pins.insert(host.to_owned(), pin);
        self
    }

    fn called(mut self, id: u64, member: Member) -> Self {
        self.calls.insert(id, member);
        self
    }

    fn lagging(mut self, id: u64) -> Self {
        self.members.get_mut(&id).unwrap().caught_up = false;
        self
    }

    /// Node `id` belongs to this host.
    fn on(mut self, id: u64, host: &str) -> Self {
        self.members.get_mut(&id).unwrap().member = member(host);
        self
    }

    fn changing(mut self) -> Self {
        self.changing = true;
        self
    }
}

#[test]
fn the_quorum_has_one_three_or_five_voters() {
    for (name, world, expected) in [
        ("alone", world(&[1], &[(1, 0)]), None),
        ("two nodes: one votes, the other's death must not stop it", world(&[1], &[(1, 0), (2, 0)]), None),
        ("three", world(&[1], &[(1, 0), (2, 0), (3, 0)]), voters(&[1, 2, 3])),
        ("three, one of them behind", world(&[1], &[(1, 0), (2, 0), (3, 0)]).lagging(3), None),
        ("three, one of them silent", world(&[1], &[(1, 0), (2, 0), (3, 9)]), None),
        ("four", world(&[1, 2, 3], &[(1, 0), (2, 0), (3, 0), (4, 0)]), None),
        ("five", world(&[1, 2, 3], &[(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]), voters(&[1, 2, 3, 4, 5])),
        ("seven", world(&[1, 2, 3, 4, 5], &[(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0)]), None),
        ("even after a removal, with a substitute", world(&[1, 2], &[(1, 0), (2, 0), (4, 0)]), voters(&[1, 2, 4])),
        (
            "a change that another leader began",
            world(&[1, 2, 3], &[(1, 0), (2, 0), (3, 0)]).changing(),
            voters(&[1, 2, 3]),
        ),
    ] {
        assert_eq!(reconcile(&world), expected, "{name}");
    }
}

#[test]
fn a_voter_that_is_gone_for_long_is_replaced_if_a_learner_lives() {
    for (name, world, expected) in [
        ("silent for a short while", world(&[1, 2, 3], &[(1, 0), (2, 0), (3, 59), (4, 0)]), None),
        ("gone", world(&[1, 2, 3], &[(1, 0), (2, 0), (3, 60), (4, 0)]), voters(&[1, 2, 4])),
        ("gone, nobody left", world(&[1, 2, 3], &[(1, 0), (2, 0), (3, 60)]), None),
        ("gone, the learner is dead too", world(&[1, 2, 3], &[(1, 0), (2, 0), (3, 60), (4, 60)]), None),
        ("two of three gone: no quorum to decide", world(&[1, 2, 3], &[(1, 0), (2, 60), (3, 60), (4, 0)]), None),
        (
            "two of five gone",
            world(&[1, 2, 3, 4, 5], &[(1, 0), (2, 0), (3, 0), (4, 99), (5, 99), (6, 0), (7, 0)]),
            voters(&[1, 2, 3, 6, 7]),
        ),
        ("a learner gone for very long is forgotten", world(&[1], &[(1, 0), (2, 3600)]), Some(Change::Remove(2))),
        ("a voter gone for very long stays", world(&[1, 2, 3], &[(1, 0), (2, 0), (3, 3600)]), None),
    ] {
        assert_eq!(reconcile(&world), expected, "{name}");
    }
}

#[test]
fn nodes_join_move_and_take_the_place_of_their_hosts_former_selves() {
    let three = || world(&[1, 2, 3], &[(1, 0), (2, 0), (3, 0)]);
    let wiped = |silence| world(&[1, 2, 3], &[(1, 0), (2, 0), (3, silence)]);
    let elsewhere = Member { addr: "10.9.9.9:1111".to_owned(), host: "h3".to_owned() };
    for (name, world, expected) in [
        ("a new host", three().called(9, member("h9")), Some(Change::Add(9, member("h9")))),
        ("a member that did not move", three().called(2, member("h2")), None),
        ("a member with a new address", three().called(3, elsewhere.clone()), Some(Change::Move(3, elsewhere.clone()))),
        ("wiped: same host, same address", wiped(1).called(9, member("h3")), Some(Change::Add(9, member("h3")))),
        ("two living machines with one host id", three().called(9, elsewhere.clone()), None),
        ("wiped and moved", wiped(5).called(9, elsewhere.clone()), Some(Change::Add(9, elsewhere))),
        ("the leader's own host id", three().called(9, member("h1")), None),
        (
            "the new self takes over the vote",
            world(&[1, 2, 3], &[(1, 0), (2, 0), (3, 3), (9, 0)]).on(9, "h3"),
            voters(&[1, 2, 9]),
        ),
        (
            "the new self is preferred to others",
            world(&[1, 2, 3], &[(1, 0), (2, 0), (3, 3), (4, 0), (9, 0)]).on(9, "h3"),
            voters(&[1, 2, 9]),
        ),
        (
            "not before it has the log",
            world(&[1, 2, 3], &[(1, 0), (2, 0), (3, 3), (9, 0)]).on(9, "h3").lagging(9),
            None,
        ),
        (
            "the new self takes over the vote at once where it has the address",
            world(&[1, 2, 3], &[(1, 0), (2, 0), (3, 0), (9, 0)]).on(9, "h3").called(9, member("h3")),
            voters(&[1, 2, 9]),
        ),
        (
            "the former self goes",
            world(&[1, 2, 9], &[(1, 0), (2, 0), (3, 3), (9, 0)]).on(9, "h3"),
            Some(Change::Remove(3)),
        ),
    ] {
        assert_eq!(reconcile(&world), expected, "{name}");
    }
}

#[test]
fn the_operators_word_counts() {
    let four = || world(&[1, 2, 3], &[(1, 0), (2, 0), (3, 0), (4, 0)]);
    for (name, world, expected) in [
        ("promoted", four().pinned("h4", Pin::Voter), voters(&[1, 2, 3, 4])),
        ("demoted, with a substitute", four().pinned("h3", Pin::Learner), voters(&[1, 2, 4])),
        (
            "demoted, without one",
            world(&[1, 2, 3], &[(1, 0), (2, 0), (3, 0)]).pinned("h3", Pin::Learner),
            voters(&[1, 2]),
        ),
        (
            "a demoted dead one",
            world(&[1, 2, 3], &[(1, 0), (2, 0), (3, 9)]).pinned("h3", Pin::Learner),
            voters(&[1, 2]),
        ),
        ("the last one", world(&[1], &[(1, 0)]).pinned("h1", Pin::Learner), None),
        ("the leader itself", four().pinned("h1", Pin::Learner), voters(&[2, 3, 4])),
        ("promoted among two", world(&[1], &[(1, 0), (2, 0)]).pinned("h2", Pin::Voter), voters(&[1, 2])),
    ] {
        assert_eq!(reconcile(&world), expected, "{name}");
    }
}
