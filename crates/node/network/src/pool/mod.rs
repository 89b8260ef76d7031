//! Addresses of one host's containers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use flynn_types::id::JobId;

use crate::Ipv4Net;

/// Which container has which address. Addresses are handed out in order, so that a released one rests until the range
/// has wrapped: packets on their way to its last owner do not reach the next.
#[derive(Debug)]
pub(crate) struct Pool {
    subnet: Ipv4Net,
    by_job: BTreeMap<JobId, Ipv4Addr>,
    taken: BTreeSet<Ipv4Addr>,
    last: Ipv4Addr,
}

/// The texts of the first three are what people see as their job's error (spec 14.3).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    #[error("no available ip addresses on network")]
    Exhausted,
    #[error("ip already allocated")]
    Taken(Ipv4Addr),
    #[error("requested ip is out of range")]
    OutOfRange(Ipv4Addr),
}

impl Pool {
    pub(crate) fn new(subnet: Ipv4Net) -> Self {
        Self { subnet, by_job: BTreeMap::new(), taken: BTreeSet::new(), last: subnet.first_host() }
    }

    pub(crate) fn subnet(&self) -> Ipv4Net {
        self.subnet
    }

    /// Base, bridge and broadcast address are nobody's.
    fn is_for_containers(&self, ip: Ipv4Addr) -> bool {
        self.subnet.contains(ip) && ip > self.subnet.first_host() && ip < self.subnet.broadcast()
    }

    /// An address for a job; the one it has already, if any.
    pub(crate) fn allocate(&mut self, job: &JobId, requested: Option<Ipv4Addr>) -> Result<Ipv4Addr, AllocateError> {
        if let Some(ip) = self.by_job.get(job)
            && requested.is_none_or(|requested| requested == *ip)
        {
            return Ok(*ip);
        }
        let ip = match requested {
            Some(ip) if !self.is_for_containers(ip) => return Err(AllocateError::OutOfRange(ip)),
            Some(ip) if self.taken.contains(&ip) => return Err(AllocateError::Taken(ip)),
            Some(ip) => ip,
            None => {
                self.last = self.next_free().ok_or(AllocateError::Exhausted)?;
                self.last
            }
        };
        self.give(job, ip);
        Ok(ip)
    }

    fn next_free(&self) -> Option<Ipv4Addr> {
        let (first, end) = (self.subnet.first_host().to_bits() + 1, self.subnet.broadcast().to_bits());
        let after_last = (self.last.to_bits() + 1).clamp(first, end);
        (after_last..end).chain(first..after_last).map(Ipv4Addr::from_bits).find(|ip| !self.taken.contains(ip))
    }

    /// Notes the address of a container that outlived the last daemon, inside the subnet or not.
    pub(crate) fn reserve(&mut self, job: &JobId, ip: Ipv4Addr) -> Result<(), AllocateError> {
        match self.by_job.get(job) {
            Some(own) if *own == ip => Ok(()),
            _ if self.taken.contains(&ip) => Err(AllocateError::Taken(ip)),
            _ => {
                self.give(job, ip);
                if self.is_for_containers(ip) { Ok(()) } else { Err(AllocateError::OutOfRange(ip)) }
            }
        }
    }

    fn give(&mut self, job: &JobId, ip: Ipv4Addr) {
        if let Some(old) = self.by_job.insert(job.clone(), ip) {
            self.taken.remove(&old);
        }
        self.taken.insert(ip);
    }

    pub(crate) fn release(&mut self, job: &JobId) {
        if let Some(ip) = self.by_job.remove(job) {
            self.taken.remove(&ip);
        }
    }

    pub(crate) fn jobs(&self) -> impl Iterator<Item = (&JobId, Ipv4Addr)> {
        self.by_job.iter().map(|(job, ip)| (job, *ip))
    }

    pub(crate) fn used(&self) -> usize {
        self.by_job.len()
    }

    /// Addresses that containers can have, used or not.
    pub(crate) fn capacity(&self) -> usize {
        let count = self.subnet.broadcast().to_bits() - self.subnet.first_host().to_bits() - 1;
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    /// Goes on in another subnet. Containers keep their addresses of the old one.
    pub(crate) fn move_to(&mut self, subnet: Ipv4Net) {
        if subnet != self.subnet {
            self.subnet = subnet;
            self.last = subnet.first_host();
        }
    }
}

#[cfg(test)]
mod tests;
