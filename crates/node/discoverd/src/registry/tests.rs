//! Tables and random histories for the state machine.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn instance(number: u8) -> Instance {
    Instance::new("tcp", &format!("10.0.0.{number}:80"), BTreeMap::new())
}

fn id(number: u8) -> String {
    instance(number).id
}

fn add(number: u8) -> Command {
    Command::AddInstance { service: "a".into(), instance: instance(number) }
}

fn remove(number: u8) -> Command {
    Command::RemoveInstance { service: "a".into(), id: id(number) }
}

fn service(leader_type: LeaderType) -> Command {
    Command::AddService { service: "a".into(), leader_type }
}

/// Applies commands and gives the events of the last one as `kind number`.
fn events_of_last(commands: &[Command]) -> Vec<String> {
    let mut registry = Registry::default();
    let mut last = Vec::new();
    for (index, command) in commands.iter().enumerate() {
        last = registry.apply(index as u64 + 1, command.clone()).1;
    }
    let number = |id: &str| (0..=9).find(|n| self::id(*n) == id).map_or_else(|| "?".to_owned(), |n| n.to_string());
    let name = |e: &Event| match &e.instance {
        Some(i) => format!("{} {}", e.kind, number(&i.id)),
        None => e.kind.to_string(),
    };
    last.iter().map(name).collect()
}

#[test]
fn commands_give_their_events_in_order() {
    let oldest = || service(LeaderType::Oldest);
    let manual = || service(LeaderType::Manual);
    let expire = |list: &[(u8, u64)]| Command::Expire {
        instances: list.iter().map(|(n, epoch)| Expiry { service: "a".into(), id: id(*n), epoch: *epoch }).collect(),
    };
    let meta = |index, leader: Option<u8>| Command::SetMeta {
        service: "a".into(),
        data: "1".into(),
        index,
        leader_id: leader.map(id),
    };
    let lead = |n| Command::SetLeader { service: "a".into(), id: id(n) };
    for (name, commands, expected) in [
        ("first", vec![oldest(), add(1)], vec!["up 1", "leader 1"]),
        ("second", vec![oldest(), add(1), add(2)], vec!["up 2"]),
        ("the same again", vec![oldest(), add(1), add(1)], vec![]),
        ("the leader goes", vec![oldest(), add(1), add(2), remove(1)], vec!["down 1", "leader 2"]),
        ("the last goes", vec![oldest(), add(1), remove(1)], vec!["down 1", "leader"]),
        (
            "two expire",
            vec![oldest(), add(1), add(2), add(3), expire(&[(1, 2), (2, 3)])],
            vec!["down 1", "down 2", "leader 3"],
        ),
        ("registered again before it expires", vec![oldest(), add(1), add(1), expire(&[(1, 2)])], vec![]),
        ("metadata with a leader", vec![oldest(), add(1), add(2), meta(0, Some(2))], vec!["service_meta", "leader 2"]),
        ("metadata with an unknown leader", vec![oldest(), add(1), meta(0, Some(9))], vec!["service_meta"]),
        (
            "an override ends with the next change",
            vec![oldest(), add(1), add(2), meta(0, Some(2)), remove(9)],
            vec!["leader 1"],
        ),
        ("manual", vec![manual(), add(1), remove(1)], vec!["down 1"]),
        ("appointed", vec![manual(), add(1), lead(1)], vec!["leader 1"]),
        ("appointed unregistered", vec![manual(), lead(1), add(1)], vec!["up 1"]),
        (
            "deleted",
            vec![oldest(), add(2), add(1), Command::RemoveService { service: "a".into() }],
            vec!["down 2", "down 1"],
        ),
        ("no service", vec![add(1)], vec![]),
    ] {
        assert_eq!(events_of_last(&commands), expected, "{name}");
    }
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let name = || prop_oneof![Just("a".to_owned()), Just("b".to_owned())];
    let leader_type = prop_oneof![Just(LeaderType::Oldest), Just(LeaderType::Manual)];
    let command = prop_oneof![
        2 => (name(), leader_type).prop_map(|(service, leader_type)| Command::AddService { service, leader_type }),
        1 => name().prop_map(|service| Command::RemoveService { service }),
        8 => (name(), 0..6u8, any::<bool>()).prop_map(|(service, n, tagged)| {
            let mut instance = instance(n);
            if tagged {
                instance.meta.insert("k".into(), "v".into());
            }
            Command::AddInstance { service, instance }
        }),
        3 => (name(), 0..6u8).prop_map(|(service, n)| Command::RemoveInstance { service, id: id(n) }),
        2 => (name(), 0..6u8, 0..40u64).prop_map(|(service, n, epoch)| Command::Expire {
            instances: vec![Expiry { service, id: id(n), epoch }],
        }),
        2 => (name(), 0..40u64, proptest::option::of(0..6u8)).prop_map(|(service, index, leader)| Command::SetMeta {
            service, data: "{}".into(), index: if index > 20 { 0 } else { index }, leader_id: leader.map(id),
        }),
        2 => (name(), 0..6u8).prop_map(|(service, n)| Command::SetLeader { service, id: id(n) }),
    ];
    proptest::collection::vec(command, 1..60)
}

proptest! {
    #[test]
    fn the_oldest_leads_and_a_snapshot_is_the_whole_truth(commands in commands()) {
        let mut registry = Registry::default();
        for (index, command) in commands.iter().enumerate() {
            let registration = matches!(command, Command::AddInstance { .. } | Command::RemoveInstance { .. });
            let reply = registry.apply(index as u64 + 1, command.clone()).0;
            for name in registry.service_names() {
                let instances = registry.instances(&name);
                prop_assert!(instances.is_sorted_by_key(|i| i.index));
                let mine = matches!(command, Command::AddInstance { service, .. } | Command::RemoveInstance { service, .. } if *service == name);
                if registration && mine && reply.is_ok() && registry.leader_type(&name) == Some(LeaderType::Oldest) {
                    prop_assert_eq!(registry.leader(&name), instances.first().cloned());
                }
            }
            let bytes = serde_json::to_vec(&registry).unwrap();
            prop_assert_eq!(&serde_json::from_slice::<Registry>(&bytes).unwrap(), &registry);
        }
    }

    /// A subscriber whose node jumps from one state to another by a snapshot ends up seeing what a fresh one sees.
    #[test]
    fn a_snapshots_difference_leads_to_the_new_state(commands in commands(), cut in 0..60usize) {
        let (mut old, mut new) = (Registry::default(), Registry::default());
        for (index, command) in commands.iter().enumerate() {
            let _ = new.apply(index as u64 + 1, command.clone());
            if index < cut {
                let _ = old.apply(index as u64 + 1, command.clone());
            }
        }
        let mut seen: BTreeMap<(String, String), Instance> = BTreeMap::new();
        let replayed = ["a", "b"].iter().flat_map(|name| old.replay(name)).collect::<Vec<_>>();
        for event in replayed.into_iter().chain(old.events_to(&new)) {
            let Some(instance) = event.instance else { continue };
            let key = (event.service, instance.id.clone());
            match event.kind {
                EventKind::Up => prop_assert!(seen.insert(key, instance).is_none(), "up twice"),
                EventKind::Update => prop_assert!(seen.insert(key, instance).is_some(), "update of an unknown one"),
                EventKind::Down => prop_assert!(seen.remove(&key).is_some(), "down of an unknown one"),
                _ => {}
            }
        }
        for name in ["a", "b"] {
            let fresh: Vec<Instance> = new.instances(name).iter().map(|i| i.as_ref().clone()).collect();
            let mut known: Vec<Instance> = seen.iter().filter(|((s, _), _)| s == name).map(|(_, i)| i.clone()).collect();
            known.sort_by_key(|i| i.index);
            prop_assert_eq!(known, fresh);
        }
    }
}
