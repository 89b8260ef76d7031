use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn job(number: usize) -> JobId {
    format!("host1-job{number}").parse().unwrap()
}

fn pool() -> Pool {
    Pool::new("100.100.28.0/24".parse().unwrap())
}

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 100, 28, last)
}

#[test]
fn addresses_are_consecutive_from_the_second_and_253_fit() {
    let mut pool = pool();
    for number in 0..253 {
        let expected = ip(u8::try_from(number + 2).unwrap());
        assert_eq!(pool.allocate(&job(number), None), Ok(expected));
    }
    assert_eq!(pool.capacity(), 253);
    let full = pool.allocate(&job(999), None).unwrap_err();
    assert_eq!(full.to_string(), "no available ip addresses on network");
}

#[test]
fn a_released_address_rests_until_the_range_has_wrapped() {
    let mut pool = pool();
    pool.allocate(&job(0), None).unwrap();
    pool.release(&job(0));
    for number in 1..253 {
        assert_ne!(pool.allocate(&job(number), None), Ok(ip(2)), "job {number}");
    }
    assert_eq!(pool.allocate(&job(253), None), Ok(ip(2)));
}

#[test]
fn a_job_keeps_its_address() {
    let mut pool = pool();
    let first = pool.allocate(&job(0), None).unwrap();
    assert_eq!(pool.allocate(&job(0), None), Ok(first));
    assert_eq!(pool.allocate(&job(0), Some(first)), Ok(first));
    assert_eq!(pool.used(), 1);
}

#[test]
fn wishes_are_granted_unless_taken_or_out_of_range() {
    let mut pool = pool();
    assert_eq!(pool.allocate(&job(0), Some(ip(9))), Ok(ip(9)));
    let refused = |pool: &mut Pool, wish| pool.allocate(&job(1), Some(wish)).unwrap_err().to_string();
    assert_eq!(refused(&mut pool, ip(9)), "ip already allocated");
    for wish in [ip(0), ip(1), ip(255), Ipv4Addr::new(10, 0, 0, 1)] {
        assert_eq!(refused(&mut pool, wish), "requested ip is out of range", "{wish}");
    }
}

#[test]
fn addresses_of_running_containers_are_not_handed_out() {
    let mut pool = pool();
    pool.reserve(&job(0), ip(2)).unwrap();
    pool.reserve(&job(0), ip(2)).unwrap();
    assert_eq!(pool.reserve(&job(1), ip(2)), Err(AllocateError::Taken(ip(2))));
    assert_eq!(pool.allocate(&job(2), None), Ok(ip(3)));
}

#[test]
fn the_smallest_subnet_holds_one_container() {
    let mut pool = Pool::new("10.0.0.4/30".parse().unwrap());
    assert_eq!(pool.allocate(&job(0), None), Ok(Ipv4Addr::new(10, 0, 0, 6)));
    assert_eq!(pool.allocate(&job(1), None), Err(AllocateError::Exhausted));
    pool.release(&job(0));
    assert_eq!(pool.allocate(&job(1), None), Ok(Ipv4Addr::new(10, 0, 0, 6)));
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(usize, Option<u8>),
    Reserve(usize, u8),
    Release(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..40_usize, proptest::option::of(any::<u8>())).prop_map(|(job, wish)| Step::Allocate(job, wish)),
        1 => (0..40_usize, any::<u8>()).prop_map(|(job, last)| Step::Reserve(job, last)),
        2 => (0..40_usize).prop_map(Step::Release),
    ]
}

proptest! {
    #[test]
    fn no_two_jobs_ever_share_an_address(steps in proptest::collection::vec(step(), 1..200)) {
        let mut pool = pool();
        for step in steps {
            match step {
                Step::Allocate(number, wish) => _ = pool.allocate(&job(number), wish.map(ip)),
                Step::Reserve(number, last) => _ = pool.reserve(&job(number), ip(last)),
                Step::Release(number) => pool.release(&job(number)),
            }
            let owners: BTreeMap<Ipv4Addr, &JobId> = pool.jobs().map(|(job, ip)| (ip, job)).collect();
            prop_assert_eq!(owners.len(), pool.used());
            prop_assert!(owners.keys().eq(&pool.taken));
        }
    }
}
