//! What a router presents and answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::challenge::Challenge;
use crate::domain::Domain;
use crate::managed::Managed;
use crate::store::Contents;

/// Everything that the store has for a router, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// What is issued.
    pub certificates: BTreeMap<Domain, Arc<Managed>>,
    /// What is pending.
    pub challenges: BTreeMap<Domain, Arc<Challenge>>,
}

impl View {
    /// What a store has.
    pub fn of(contents: &Contents) -> Self {
        let issued = contents.certificates.iter().filter(|(_, managed)| managed.issued.is_some());
        let certificates = issued.map(|(domain, managed)| (domain.clone(), Arc::clone(managed))).collect();
        Self { certificates, challenges: contents.challenges.clone() }
    }
}
