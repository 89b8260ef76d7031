//! The rules that keep commits, one by one.

use flynn_sirenia::{Volume, WriteFailure};

use crate::rig::{Rig, cluster, instance};

#[test]
fn whoever_declares_a_generation_is_fenced_until_it_is_in_force() {
    for (state, peers, left) in [("g1 P=1 S=2 A=[3]", [1, 2, 3], [1, 3]), ("g1 P=2 S=1 A=[3]", [1, 2, 3], [1, 3])] {
        let mut rig = Rig::start(state, &peers);
        rig.write_fails = Some(WriteFailure::Uncertain);
        rig.registered(&left);
        assert!(rig.fenced, "{state}: the write may be in force");
        rig.registered(&peers).wait();
        assert!(rig.fenced, "{state}: and may be yet, though all are back");
        rig.write_fails = None;
        rig.wait();
        assert!(!rig.fenced, "{state}: another write stands in its place");
        assert_eq!(rig.cluster.as_ref().unwrap().generation, 1, "{state}: nobody is gone any more");
    }
}

#[test]
fn an_uncertain_write_is_settled_by_a_newer_state() {
    let mut rig = Rig::start("g1 P=2 S=1 A=[3]", &[1, 2, 3]);
    rig.write_fails = Some(WriteFailure::Uncertain);
    rig.registered(&[1, 3]);
    rig.registered(&[1, 2, 3]).declares("g1 P=2 S=1 A=[3,4]");
    rig.is("sync 2>1>3 g1 P=2 S=1 A=[3,4] W=0");
    assert!(!rig.fenced);
}

#[test]
fn a_peer_that_just_started_acts_only_on_a_state_that_it_wrote_itself() {
    for state in ["g1 P=1 S=2", "g1 P=2 S=1"] {
        let mut rig = Rig::new(false);
        rig.write_fails = Some(WriteFailure::Uncertain);
        rig.registered(&[1, 2]).declares(state).wait();
        assert!(!rig.online(), "{state}");
        rig.write_fails = None;
        rig.wait();
        assert!(rig.online(), "{state}");
        assert_eq!(rig.cluster, Some(cluster(state)), "the same");
    }
    let mut harmless = Rig::new(false);
    harmless.write_fails = Some(WriteFailure::Uncertain);
    assert!(harmless.registered(&[1, 2, 3]).declares("g1 P=2 S=3 A=[1]").online(), "an async acknowledges nothing");
}

#[test]
fn a_log_that_ends_before_the_generation_began_takes_nothing_over() {
    let mut rig = Rig::start("g2 P=2 S=1 A=[3] W=50", &[1, 2, 3]);
    rig.position = 49;
    rig.registered(&[1, 3])
        .wait()
        .is("sync 2>1>3 g2 P=2 S=1 A=[3] W=50")
        .waits_for("ends at 49, generation begins at 50");
    assert!(!rig.fenced, "it goes on receiving");
    rig.catch_up().is("primary >1>3 g3 P=1 S=3 D=[2] W=50");
}

#[test]
fn a_malformed_position_takes_nothing_over() {
    let mut rig = Rig::start("g2 P=2 S=1 A=[3] W=x/y", &[1, 2, 3]);
    rig.registered(&[1, 3]).wait().is("sync 2>1>3 g2 P=2 S=1 A=[3] W=x/y").waits_for("\"x/y\" is malformed");
    rig.declares("g2 P=2 S=1 A=[3] W=0").is("primary >1>3 g3 P=1 S=3 D=[2] W=0");
}

#[test]
fn a_volume_follows_no_state_older_than_it_has_seen() {
    let seen = Volume { generation: 3, has_data: true };
    let mut rig = Rig::with(false, seen);
    rig.peers = [1, 2, 3].map(instance).to_vec();
    rig.declares("g2 P=1 S=2 A=[3]").wait();
    assert_eq!(rig.state.role().as_str(), "unknown");
    rig.waits_for("of generation 2, this volume was part of generation 3");
    assert!(rig.config.is_none(), "the database is not touched");
    rig.declares("g3 P=2 S=1 A=[3]").is("sync 2>1>3 g3 P=2 S=1 A=[3] W=0");
    rig.declares("g4 P=2 S=3 A=[1]");
    assert_eq!(rig.remembered, 4);
}

#[test]
fn a_cluster_is_not_begun_anew_over_data() {
    for volume in [Volume { generation: 1, has_data: false }, Volume { generation: 0, has_data: true }] {
        for singleton in [false, true] {
            let mut rig = Rig::with(singleton, volume);
            rig.registered(&[1, 2]).wait().is("unassigned off none").waits_for("there is no cluster state");
        }
    }
    let mut running = Rig::start("g1 P=1 S=2", &[1, 2]);
    (running.cluster, running.index) = (None, 9);
    running.tell().wait().is("primary >1>2 none").waits_for("restore the state");
}
