//! Histories that were found at random and failed once.

use super::Fault::*;
use super::*;

fn replay(faults: &[Fault], seed: u64) {
    Cluster::live_through(faults, seed).check();
}

#[test]
fn silence_is_counted_anew_after_a_host_was_back_between_two_checks() {
    let faults = [Cut(2), Forget(0), Leader(601), Tag(2, true), Wait(3344), Back(2), Cut(2), Wait(15251)];
    replay(&faults, 9_647_208_564_586_704_677);
}

#[test]
fn a_host_that_opens_is_where_jobs_of_draining_ones_go_without_delay() {
    let faults = [
        PowerCut(0),
        PowerCut(0),
        ControllerDown(false),
        Wait(9549),
        Delete(0),
        PowerCut(3),
        Drain(2, true),
        Back(1),
        Scale(0, 0),
        Crash(3, 0),
        Forget(0),
        Crash(0, 0),
        Crash(1, 17),
        Crash(3, 0),
        Scale(0, 0),
        Tag(0, true),
        Back(0),
        Drain(1, true),
        Crash(0, 0),
        PowerCut(0),
    ];
    replay(&faults, 10_305_946_803_173_671_373);
}
