//! One registered port: registration, heartbeats, withdrawal.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use flynn_types::discoverd;
use flynn_types::host::{Port, Service};
use flynn_types::init::InitConfig;
use tokio::sync::watch;

use super::discoverd::Discoverd;
use crate::log::{self, Level};

/// Variables of the job that become metadata of its instances.
const META: [&str; 5] = ["FLYNN_APP_ID", "FLYNN_APP_NAME", "FLYNN_RELEASE_ID", "FLYNN_PROCESS_TYPE", "FLYNN_JOB_ID"];
/// Between a failed registration, creation or withdrawal and the next attempt.
const RETRY: Duration = Duration::from_secs(1);

pub(super) struct Instance {
    service: String,
    create: bool,
    instance: discoverd::Instance,
    discoverd: Rc<Discoverd>,
    /// A registration was sent: discoverd may know the instance, whatever it answered.
    known: bool,
}

impl Instance {
    pub(super) fn new(config: &InitConfig, port: &Port, service: &Service, discoverd: Rc<Discoverd>) -> Self {
        let meta: BTreeMap<_, _> = META
            .iter()
            .filter_map(|key| {
                Some(((*key).to_owned(), config.env.get(*key).filter(|value| !value.is_empty())?.clone()))
            })
            .collect();
        let proto = if port.proto.is_empty() { "tcp" } else { &port.proto };
        Self {
            service: service.name.clone(),
            create: service.create,
            instance: discoverd::Instance::new(proto, &super::address(config, port), meta),
            discoverd,
            known: false,
        }
    }

    /// Keeps the instance registered while `up` says so, until `withdraw` does.
    pub(super) async fn run(mut self, mut up: watch::Receiver<bool>, mut withdraw: watch::Receiver<bool>) {
        let mut withdrawing = withdraw.clone();
        tokio::select! {
            // First, so that no registration begins after the withdrawal was asked for.
            biased;
            _ = withdrawing.wait_for(|withdraw| *withdraw) => {}
            () = self.keep(&mut up, &mut withdraw) => {}
        }
        // The caller limits how long this may take.
        while self.known && !self.withdraw().await {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn keep(&mut self, up: &mut watch::Receiver<bool>, withdraw: &mut watch::Receiver<bool>) {
        loop {
            if up.wait_for(|up| *up).await.is_err() {
                // Nobody checks any more: it stays as it is.
                let _ = withdraw.wait_for(|withdraw| *withdraw).await;
                return;
            }
            {
                let mut down = up.clone();
                tokio::select! {
                    biased;
                    result = down.wait_for(|up| !*up) => if result.is_err() {
                        // A port without check: it is up for good.
                        self.stay_registered().await;
                    },
                    () = self.stay_registered() => {}
                }
            }
            while self.known && !*up.borrow() && !self.withdraw().await {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Registers and says again and again that it is there. Ends only by being dropped.
    async fn stay_registered(&mut self) {
        while self.create {
            match self.discoverd.create(&self.service).await {
                Ok(()) => self.create = false,
                Err(err) => {
                    self.complain("cannot be created", &err);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        let mut failing = false;
        let mut registered = false;
        loop {
            self.known = true;
            match self.discoverd.register(&self.service, &self.instance).await {
                Ok(()) => {
                    if !registered || failing {
                        log::write(
                            Level::Info,
                            format_args!("registered {} as {:?}", self.instance.addr, self.service),
                        );
                    }
                    (registered, failing) = (true, false);
                }
                Err(err) => {
                    if !failing {
                        self.complain("cannot be registered", &err);
                    }
                    failing = true;
                }
            }
            tokio::time::sleep(pause(registered, failing, rand::random())).await;
        }
    }

    /// False when it may still be registered.
    async fn withdraw(&mut self) -> bool {
        match self.discoverd.unregister(&self.service, &self.instance.id).await {
            Ok(()) => {
                self.known = false;
                log::write(Level::Info, format_args!("withdrew {} from {:?}", self.instance.addr, self.service));
            }
            Err(err) => self.complain("cannot be withdrawn", &err),
        }
        !self.known
    }

    fn complain(&self, what: &str, reason: &str) {
        log::write(Level::Warn, format_args!("service {:?} {what}: {reason}", self.service));
    }
}

/// Until the next heartbeat: 3 to 5 s, 200 to 400 ms while they fail, 1 s while nothing was registered yet. `dice` is
/// random, so that the jobs of a cluster do not beat together.
fn pause(registered: bool, failing: bool, dice: u8) -> Duration {
    let part = u32::from(dice);
    match (registered, failing) {
        (false, _) => RETRY,
        (true, true) => Duration::from_millis(200) + Duration::from_millis(200) * part / 255,
        (true, false) => Duration::from_secs(5) - Duration::from_secs(2) * part / 255,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_have_the_pace_of_the_specification() {
        for (registered, failing, fastest, slowest) in
            [(false, true, 1000, 1000), (true, true, 200, 400), (true, false, 3000, 5000)]
        {
            let millis = |dice| pause(registered, failing, dice).as_millis();
            let (one, other) = (millis(0), millis(255));
            assert_eq!((one.min(other), one.max(other)), (fastest, slowest));
        }
    }

    #[test]
    fn instances_carry_where_they_belong() {
        let env = [("FLYNN_APP_ID", "1"), ("FLYNN_JOB_ID", ""), ("SECRET", "x")];
        let env = env.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let config = InitConfig { env, external_ip: "10.1.1.1".into(), ..InitConfig::default() };
        let port = Port { port: 80, ..Port::default() };
        let discoverd = Rc::new(Discoverd::new(vec![]));
        let instance = Instance::new(&config, &port, &Service::default(), discoverd).instance;
        assert_eq!(instance.id, "4e42c4dc85a8278b9bf0971decf96bee");
        assert_eq!(instance.meta, BTreeMap::from([("FLYNN_APP_ID".to_owned(), "1".to_owned())]));
    }
}
