//! Whose call is it that init answers.
//!
//! Each daemon numbers its calls from 1, so after a change of daemons the same number means two things. Towards init
//! the monitor therefore uses numbers of its own.

use std::collections::BTreeMap;

use flynn_types::init::ToInit;

/// A call as the daemon knows it: which daemon, and its number.
pub(super) type Caller = (u64, u64);

#[derive(Debug, Default)]
pub(super) struct Calls {
    generation: u64,
    last: u64,
    waiting: BTreeMap<u64, Caller>,
    pty: Vec<Caller>,
}

impl Calls {
    pub(super) fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.pty.clear(); // nobody is there to take it
        self.generation
    }

    /// The call with a number of our own.
    pub(super) fn begin(&mut self, generation: u64, mut call: ToInit) -> ToInit {
        self.last += 1;
        let id = std::mem::replace(id_mut(&mut call), self.last);
        self.waiting.insert(self.last, (generation, id));
        call
    }

    pub(super) fn end(&mut self, id: u64) -> Option<Caller> {
        self.waiting.remove(&id)
    }

    /// All calls that wait for init.
    pub(super) fn end_all(&mut self) -> Vec<Caller> {
        std::mem::take(&mut self.waiting).into_values().collect()
    }

    pub(super) fn await_pty(&mut self, generation: u64, id: u64) {
        self.pty.push((generation, id));
    }

    /// All calls that wait for the terminal.
    pub(super) fn pty_awaited(&mut self) -> Vec<Caller> {
        std::mem::take(&mut self.pty)
    }
}

fn id_mut(call: &mut ToInit) -> &mut u64 {
    match call {
        ToInit::Resume { id }
        | ToInit::Signal { id, .. }
        | ToInit::Deregister { id }
        | ToInit::Stop { id }
        | ToInit::Kill { id }
        | ToInit::Resize { id, .. } => id,
    }
}

pub(super) fn id(call: &ToInit) -> u64 {
    let mut call = call.clone();
    *id_mut(&mut call)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_numbers_of_two_daemons_are_not_confused() {
        let mut calls = Calls::default();
        let first = calls.next_generation();
        let stop = calls.begin(first, ToInit::Stop { id: 5 });
        let second = calls.next_generation();
        let resume = calls.begin(second, ToInit::Resume { id: 5 });
        assert_ne!(id(&stop), id(&resume));
        assert_eq!(calls.end(id(&resume)), Some((second, 5)));
        assert_eq!(calls.end(id(&resume)), None);
        assert_eq!(calls.end_all(), [(first, 5)]);
    }
}
