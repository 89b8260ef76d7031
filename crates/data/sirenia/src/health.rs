//! Whether a peer is well. Pure.

use flynn_types::sirenia::{Role, Status};

/// Why a peer is not healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unhealthy {
    #[error("there is no cluster state")]
    NoState,
    #[error("the database could not be configured, it is tried again")]
    RetryPending,
    #[error("the peer is neither primary nor sync nor async")]
    Role,
    #[error("the database cannot be asked")]
    NoDatabase,
    #[error("the database does not run")]
    NotRunning,
    #[error("the database has no user flynn")]
    NoUser,
    #[error("the primary does not accept writes")]
    ReadOnly,
    #[error("the sync has not everything that the primary has")]
    NotSynced,
}

/// The health rule of spec section 4.
pub fn health(status: &Status, key: &flynn_types::sirenia::IdKey) -> Result<(), Unhealthy> {
    let peer = status.peer.as_ref().ok_or(Unhealthy::NoState)?;
    let cluster = peer.state.as_ref().ok_or(Unhealthy::NoState)?;
    if peer.retry_pending.is_some() {
        return Err(Unhealthy::RetryPending);
    }
    if !peer.role.runs() {
        return Err(Unhealthy::Role);
    }
    let database = status.database.as_ref().ok_or(Unhealthy::NoDatabase)?;
    if !database.running {
        return Err(Unhealthy::NotRunning);
    }
    if !database.user_exists {
        return Err(Unhealthy::NoUser);
    }
    if peer.role == Role::Primary && !database.read_write {
        return Err(Unhealthy::ReadOnly);
    }
    let synced = match (&database.synced_downstream, &cluster.sync) {
        (Some(synced), Some(sync)) => key.same(synced, sync),
        _ => false,
    };
    if peer.role == Role::Primary && !cluster.singleton && !synced {
        return Err(Unhealthy::NotSynced);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flynn_types::discoverd::Instance;
    use flynn_types::sirenia::{ClusterState, DatabaseInfo, IdKey, PeerInfo};

    /// B6
    #[test]
    fn each_condition_alone_makes_a_peer_unhealthy() {
        let key = IdKey("SIM_ID".into());
        let sync =
            |id: &str| Some(Instance::new("tcp", "10.0.0.2:5432", [("SIM_ID".to_owned(), id.to_owned())].into()));
        let cluster = ClusterState { generation: 1, sync: sync("2"), ..ClusterState::default() };
        let peer = PeerInfo { role: Role::Primary, state: Some(cluster), ..PeerInfo::default() };
        let database = DatabaseInfo {
            running: true,
            user_exists: true,
            read_write: true,
            synced_downstream: sync("2"),
            ..DatabaseInfo::default()
        };
        let well = Status { peer: Some(peer), database: Some(database) };
        assert_eq!(health(&well, &key), Ok(()));
        type Spoil = fn(&mut PeerInfo, &mut DatabaseInfo);
        let cases: [(Unhealthy, Spoil); 7] = [
            (Unhealthy::NoState, |peer, _| peer.state = None),
            (Unhealthy::RetryPending, |peer, _| peer.retry_pending = Some(Default::default())),
            (Unhealthy::Role, |peer, _| peer.role = Role::Deposed),
            (Unhealthy::NotRunning, |_, database| database.running = false),
            (Unhealthy::NoUser, |_, database| database.user_exists = false),
            (Unhealthy::ReadOnly, |_, database| database.read_write = false),
            (Unhealthy::NotSynced, |_, database| database.synced_downstream = None),
        ];
        for (expected, spoil) in cases {
            let mut status = well.clone();
            spoil(status.peer.as_mut().unwrap(), status.database.as_mut().unwrap());
            assert_eq!(health(&status, &key), Err(expected));
        }
        let mut other = well.clone();
        other.database.as_mut().unwrap().synced_downstream = sync("3");
        assert_eq!(health(&other, &key), Err(Unhealthy::NotSynced), "another peer at the sync's address");
        let cluster = other.peer.as_mut().unwrap().state.as_mut().unwrap();
        (cluster.singleton, cluster.sync) = (true, None);
        assert_eq!(health(&other, &key), Ok(()), "alone");
        assert_eq!(health(&Status { database: None, ..well }, &key), Err(Unhealthy::NoDatabase));
    }
}
