//! The testable statements A1 to A43 of the specification, and its transition table.

use flynn_sirenia::{Event, WriteFailure};
use flynn_types::sirenia::Tunables;

use crate::rig::{Rig, at, instance};

/// A1 to A9
#[test]
fn an_async_becomes_sync_then_primary_and_is_deposed_in_the_end() {
    let mut rig = Rig::start("g1 P=2 S=3 A=[1]", &[2, 3, 1]);
    rig.is("async 3>1> g1 P=2 S=3 A=[1] W=0");
    rig.registered(&[3, 1]).declares("g2 P=3 S=1 D=[2] W=10").is("sync 3>1> g2 P=3 S=1 D=[2] W=10");
    rig.registered(&[2, 3, 1]).declares("g2 P=3 S=1 A=[2] W=10").is("sync 3>1>2 g2 P=3 S=1 A=[2] W=10");
    rig.registered(&[2, 1]).is("sync 3>1>2 g2 P=3 S=1 A=[2] W=10").waits_for("not caught up");
    rig.wait().registered(&[2, 3, 1]).wait().is("sync 3>1>2 g2 P=3 S=1 A=[2] W=10");
    rig.position = 20;
    rig.registered(&[2, 1]).is("primary >1>2 g3 P=1 S=2 D=[3] W=20");
    rig.declares("g3 P=1 S=2 W=20").registered(&[3, 2, 1]).is("primary >1>2 g3 P=1 S=2 A=[3] W=20");
    rig.registered(&[3, 1]).is("primary >1>3 g4 P=1 S=3 W=50"); // reconfigured three times, 10 each
    rig.registered(&[2, 3, 1]).is("primary >1>3 g4 P=1 S=3 A=[2] W=50");
    rig.registered(&[2, 3, 1, 4]).is("primary >1>3 g4 P=1 S=3 A=[2,4] W=50");
    rig.registered(&[2, 3, 1]).is("primary >1>3 g4 P=1 S=3 A=[2] W=50");
    rig.declares("g5 P=3 S=2 D=[1] W=60").is("deposed off g5 P=3 S=2 D=[1] W=60").waits_for("an operator");
}

/// A10 to A13
#[test]
fn the_first_of_two_peers_starts_a_cluster() {
    let mut rig = Rig::new(false);
    rig.registered(&[1]).is("unassigned off none").waits_for("a second peer");
    rig.registered(&[1, 2]).is("primary >1>2 g1 P=1 S=2 W=0");
    Rig::new(false).registered(&[1, 2, 3]).is("primary >1>2 g1 P=1 S=2 A=[3] W=0");

    let mut alone = Rig::new(true);
    alone.registered(&[1]).is("primary >1> g1 singleton frozen P=1 W=0");
    assert_eq!(alone.cluster.as_ref().unwrap().freeze.as_ref().unwrap().reason, "cluster started in singleton mode");

    let mut second = Rig::new(false);
    second.peers = vec![at(2, 2), flynn_types::discoverd::Instance { index: 7, ..instance(1) }];
    second.tell().is("unassigned off none").waits_for("the first peer");
    second.declares("g1 P=2 S=1").is("sync 2>1> g1 P=2 S=1 W=0");
}

/// A14, A15
#[test]
fn without_an_async_nobody_becomes_the_sync() {
    let mut rig = Rig::start("g1 P=2 S=1", &[2, 1]);
    rig.registered(&[1]).wait().is("sync 2>1> g1 P=2 S=1 W=0").waits_for("an async peer");
    rig.registered(&[1, 3]).is("sync 2>1> g1 P=2 S=1 W=0");
    rig.declares("g1 P=2 S=1 A=[3]").is("primary >1>3 g2 P=1 S=3 D=[2] W=0");
    Rig::start("g1 P=1 S=2", &[1, 2]).registered(&[1]).wait().is("primary >1>2 g1 P=1 S=2 W=0");
}

/// A16, A17; instead of A18 nobody takes over a lost singleton, because no other volume can have its commits
#[test]
fn a_singleton_is_one_peer_and_no_other_takes_its_place() {
    let mut rig = Rig::new(true);
    rig.registered(&[1]).registered(&[1, 2]).registered(&[1]).is("primary >1> g1 singleton frozen P=1 W=0");
    let mut other = Rig::new(true);
    other.registered(&[2, 1]).declares("g1 singleton frozen P=2");
    other.is("unassigned off g1 singleton frozen P=2 W=0");
    other.registered(&[1]).wait().is("unassigned off g1 singleton frozen P=2 W=0").waits_for("bring its volume back");
}

/// A19, A20
#[test]
fn a_thawed_singleton_gets_a_sync() {
    let mut rig = Rig::start("g1 singleton frozen P=1", &[1]);
    rig.is("primary >1> g1 singleton frozen P=1 W=0");
    rig.declares("g1 singleton P=1").is("primary >1> g1 singleton P=1 W=0");
    rig.registered(&[1, 2]).is("primary >1>2 g2 P=1 S=2 W=10");
    rig.registered(&[1, 2, 3]).is("primary >1>2 g2 P=1 S=2 A=[3] W=10");
    rig.registered(&[1, 3]).is("primary >1>3 g3 P=1 S=3 W=30");
    rig.registered(&[1, 3, 2]).is("primary >1>3 g3 P=1 S=3 A=[2] W=30");
}

/// A21 to A27
#[test]
fn a_peer_starts_as_what_it_was() {
    Rig::start("g2 P=2 S=3 D=[1]", &[2, 3, 1]).is("deposed off g2 P=2 S=3 D=[1] W=0");
    let mut primary = Rig::start("g1 P=1 S=2 A=[3]", &[1, 2, 3]);
    primary.is("primary >1>2 g1 P=1 S=2 A=[3] W=0");
    primary.registered(&[1, 3]).is("primary >1>3 g2 P=1 S=3 W=10");
    Rig::start("g1 P=1 S=2 A=[3]", &[1, 3]).is("primary >1>3 g2 P=1 S=3 W=10");
    Rig::start("g1 P=2 S=1 A=[3]", &[1, 2, 3]).is("sync 2>1>3 g1 P=2 S=1 A=[3] W=0");
    Rig::start("g1 P=2 S=1 A=[3]", &[1, 3]).is("primary >1>3 g2 P=1 S=3 D=[2] W=0");
    Rig::start("g1 P=2 S=1 A=[3]", &[1]).wait().is("sync 2>1>3 g1 P=2 S=1 A=[3] W=0");
    let mut nobody = Rig::start("g1 P=2 S=3", &[1]);
    nobody.is("unassigned off g1 P=2 S=3 W=0").registered(&[2, 3, 1]).is("unassigned off g1 P=2 S=3 W=0");
    nobody.declares("g1 P=2 S=3 A=[1]").is("async 3>1> g1 P=2 S=3 A=[1] W=0");
}

/// A28, A29
#[test]
fn one_peer_after_the_other_may_be_lost() {
    let mut rig = Rig::start("g2 P=3 S=1 A=[4] D=[2]", &[3, 1, 4]);
    rig.registered(&[1, 4]).is("primary >1>4 g3 P=1 S=4 D=[2,3] W=0");
    let mut four = Rig::new(false);
    four.registered(&[1, 2, 3, 4]).is("primary >1>2 g1 P=1 S=2 A=[3,4] W=0");
    four.registered(&[1, 3, 4]).is("primary >1>3 g2 P=1 S=3 A=[4] W=10");
    four.registered(&[1, 4]).is("primary >1>4 g3 P=1 S=4 W=20");
}

/// A30, A31
#[test]
fn what_is_frozen_stays_as_it_is_until_it_thaws() {
    let mut primary = Rig::start("g1 frozen P=1 S=2 A=[3]", &[1, 2, 3]);
    for peers in [&[1_u64, 2, 3, 4][..], &[1, 3], &[1, 2]] {
        primary.registered(peers).wait().is("primary >1>2 g1 frozen P=1 S=2 A=[3] W=0").waits_for("end of the freeze");
    }
    primary.declares("g1 P=1 S=2 A=[3]").is("primary >1>2 g1 P=1 S=2 W=0");
    primary
        .declares("g1 frozen P=1 S=2 A=[3]")
        .registered(&[1, 3])
        .wait()
        .is("primary >1>2 g1 frozen P=1 S=2 A=[3] W=0");
    primary.declares("g1 P=1 S=2 A=[3]").is("primary >1>3 g2 P=1 S=3 W=30");
    let mut sync = Rig::start("g1 frozen P=2 S=1 A=[3]", &[1, 3]);
    sync.wait().is("sync 2>1>3 g1 frozen P=2 S=1 A=[3] W=0").waits_for("end of the freeze: test");
    sync.declares("g1 P=2 S=1 A=[3]").is("primary >1>3 g2 P=1 S=3 D=[2] W=0");
}

/// A32 to A34
#[test]
fn an_async_follows_its_place_in_the_chain() {
    let mut rig = Rig::start("g1 P=2 S=3 A=[4,5,1]", &[2, 3, 4, 5, 1]);
    rig.is("async 5>1> g1 P=2 S=3 A=[4,5,1] W=0");
    rig.declares("g1 P=2 S=3 A=[4,1]").is("async 4>1> g1 P=2 S=3 A=[4,1] W=0");
    rig.declares("g1 P=2 S=3 A=[1]").is("async 3>1> g1 P=2 S=3 A=[1] W=0");
    rig.declares("g1 P=2 S=3 A=[1,6]").is("async 3>1>6 g1 P=2 S=3 A=[1,6] W=0");
    rig.declares("g1 P=2 S=3").is("unassigned off g1 P=2 S=3 W=0");
    let mut sync = Rig::start("g1 P=2 S=1 A=[3]", &[1, 2, 3]);
    sync.declares("g2 P=2 S=3").is("unassigned off g2 P=2 S=3 W=0");
}

/// A35
#[test]
fn another_volume_at_the_same_address_is_another_peer() {
    let mut rig = Rig::start("g1 P=1 S=2", &[1, 2]);
    let before = rig.configured;
    rig.peers = vec![instance(1), at(3, 2)];
    rig.tell().is("primary >1>3 g2 P=1 S=3 W=10");
    assert_eq!(rig.configured, before + 1, "it was news to the database");
}

/// Instead of A36 (section 3.8) a deposed peer waits for an operator. A37
#[test]
fn a_deposed_peer_stays_so_until_an_operator_takes_it_out_of_the_list() {
    let mut primary = Rig::start("g2 P=1 S=2 D=[3]", &[1, 2]);
    primary.registered(&[1, 2, 3]).wait().is("primary >1>2 g2 P=1 S=2 D=[3] W=0");
    primary.declares("g2 P=1 S=2").is("primary >1>2 g2 P=1 S=2 A=[3] W=0");
    let mut deposed = Rig::start("g2 P=2 S=3 D=[1]", &[1, 2, 3]);
    deposed.declares("g2 P=2 S=3").is("unassigned off g2 P=2 S=3 W=0");
    deposed.declares("g2 P=2 S=3 A=[1]").is("async 3>1> g2 P=2 S=3 A=[1] W=0");
}

/// A39
#[test]
fn an_older_state_tells_nothing() {
    let mut rig = Rig::start("g1 P=2 S=3 A=[1]", &[1, 2, 3]);
    rig.index = 0;
    rig.cluster = Some(crate::rig::cluster("g1 P=2 S=3"));
    rig.tell();
    assert_eq!(rig.state.role().as_str(), "async");
}

/// A40
#[test]
fn a_rival_who_was_first_wins() {
    let mut rig = Rig::new(false);
    rig.write_fails = Some(WriteFailure::Refused);
    rig.registered(&[1, 2]).is("unassigned off none");
    rig.write_fails = None;
    rig.is("unassigned off none").wait().is("primary >1>2 g1 P=1 S=2 W=0");
    let mut late = Rig::new(false);
    late.write_fails = Some(WriteFailure::Refused);
    late.registered(&[1, 2]).declares("g1 P=2 S=1");
    late.write_fails = None;
    late.wait().is("sync 2>1> g1 P=2 S=1 W=0");
}

/// A41
#[test]
fn a_singleton_does_not_join_a_cluster() {
    let mut rig = Rig::new(true);
    rig.peers = vec![instance(1), instance(2)];
    rig.declares("g1 P=2 S=1");
    assert_eq!(rig.failed, Some("configured for singleton mode but cluster found in normal mode"));
    rig.declares("g1 singleton P=1").wait();
    assert!(rig.state.ended() && !rig.online());
}

/// A42
#[test]
fn a_database_that_cannot_be_configured_is_tried_again() {
    let mut rig = Rig::new(false);
    rig.configure_fails = true;
    rig.registered(&[1, 2]).is("primary off g1 P=1 S=2 W=0");
    let tries = rig.configured;
    rig.tell();
    assert_eq!((rig.configured, rig.state.retry_reason()), (tries, Some("broken")), "not before the timer");
    rig.configure_fails = false;
    rig.wait().is("primary >1>2 g1 P=1 S=2 W=0");
    assert_eq!((rig.configured, rig.state.retry_reason()), (tries + 1, None));
}

/// S12 and section 13 item 26
#[test]
fn the_primary_writes_down_where_peers_are_now() {
    let mut rig = Rig::start("g1 P=1 S=2 A=[3,4]", &[1, 2, 3, 4]);
    rig.peers = vec![at(1, 11), at(2, 12), at(3, 13), at(4, 4)];
    rig.tell().is("primary >1>2 g1 P=1 S=2 A=[3,4] W=0");
    let written = rig.cluster.clone().unwrap();
    let addresses: Vec<_> = written.members().map(|member| member.addr.as_str()).collect();
    assert_eq!(addresses, ["10.0.0.11:5432", "10.0.0.12:5432", "10.0.0.13:5432", "10.0.0.4:5432"]);
    assert_eq!(rig.config.unwrap().downstream.unwrap().addr, "10.0.0.12:5432");
}

/// Section 4.2
#[test]
fn the_primary_takes_newer_tunables() {
    let tunables = |version| Tunables { data: [("max_connections".to_owned(), "9".to_owned())].into(), version };
    let mut rig = Rig::start("g1 P=1 S=2", &[1, 2]);
    rig.hear(Event::Tune(tunables(2)));
    assert_eq!(rig.cluster.as_ref().unwrap().tunables, Some(tunables(2)));
    assert_eq!(rig.config.as_ref().unwrap().tunables, Some(tunables(2)));
    let index = rig.index;
    rig.hear(Event::Tune(tunables(2))).hear(Event::Tune(tunables(1)));
    assert_eq!(rig.index, index, "older ones are refused");
    let mut sync = Rig::start("g1 P=2 S=1", &[1, 2]);
    let index = sync.index;
    sync.hear(Event::Tune(tunables(1)));
    assert_eq!(sync.index, index, "only the primary");
}

/// B5
#[test]
fn a_peer_that_leaves_stops_its_database_first() {
    let mut rig = Rig::start("g1 P=1 S=2", &[1, 2]);
    rig.configure_fails = true;
    rig.hear(Event::Stop);
    assert!(rig.online() && !rig.withdrawn, "registered while it runs");
    rig.configure_fails = false;
    rig.wait();
    assert!(!rig.online() && rig.withdrawn && rig.state.ended());
    rig.hear(Event::Stop).registered(&[1, 2]).wait();
    assert!(!rig.online());
}
