//! What the controller says, as it changes and every now and then as a whole.

use std::time::Duration;

use flynn_controller_client::{Client, ClientError, Fed};
use tracing::debug;

use super::Inbox;
use super::clock::Clock;
use crate::Event;

/// From one comparison to the next (spec section 5).
const JOBS: Duration = Duration::from_secs(30);
/// After a comparison that failed.
const AGAIN: Duration = Duration::from_secs(1);
const FORMATIONS: Duration = Duration::from_secs(60);
const SINKS_AND_VOLUMES: Duration = Duration::from_secs(60);

/// Follows formations and volumes, and compares everything from time to time.
pub(super) fn follow(inbox: &Inbox, client: &Client, clock: Clock) {
    let (to, mut formations) = (inbox.clone(), client.formations());
    inbox.spawn(async move {
        loop {
            let event = match formations.next().await {
                Fed::Item(formation) => Event::Formation(Box::new(formation)),
                Fed::Current => Event::FormationsCurrent,
            };
            to.put(event).await;
        }
    });
    let (to, mut volumes) = (inbox.clone(), client.volumes());
    inbox.spawn(async move {
        loop {
            let event = match volumes.next().await {
                Fed::Item(volume) => Event::Volume(Box::new(volume)),
                Fed::Current => Event::VolumesCurrent,
            };
            to.put(event).await;
        }
    });
    follow_sinks(inbox, client);
    every(inbox, JOBS, client, move |to, client| async move { jobs(&to, &client, clock).await });
    every(inbox, FORMATIONS, client, move |to, client| async move {
        let asked = clock.now();
        let formations = client.active_formations().await?;
        to.put(Event::ActiveFormations { asked, formations }).await;
        Ok(())
    });
    every(inbox, SINKS_AND_VOLUMES, client, move |to, client| async move {
        for volume in client.volume_list().await? {
            to.put(Event::Volume(Box::new(volume))).await;
        }
        to.put(Event::Sinks(client.sink_list().await?)).await;
        Ok(())
    });
}

/// The first list is told as a whole: without it nobody knows which sinks are too many.
fn follow_sinks(inbox: &Inbox, client: &Client) {
    let (to, mut sinks) = (inbox.clone(), client.sinks());
    inbox.spawn(async move {
        let mut first = Some(Vec::new());
        loop {
            match (sinks.next().await, &mut first) {
                (Fed::Item(sink), Some(list)) => list.push(sink),
                (Fed::Item(sink), None) => to.put(Event::Sink(sink)).await,
                (Fed::Current, list) => {
                    if let Some(list) = list.take() {
                        to.put(Event::Sinks(list)).await;
                    }
                }
            }
        }
    });
}

/// Does something now and from then on. What fails is done again soon: a scheduler may start before its controller.
fn every<F>(inbox: &Inbox, pause: Duration, client: &Client, work: impl Fn(Inbox, Client) -> F + Send + 'static)
where
    F: Future<Output = Result<(), ClientError>> + Send,
{
    let (to, client) = (inbox.clone(), client.clone());
    inbox.spawn(async move {
        loop {
            let pause = match work(to.clone(), client.clone()).await {
                Ok(()) => pause,
                Err(err) => {
                    debug!(%err, "the controller cannot be compared with");
                    AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    });
}

async fn jobs(to: &Inbox, client: &Client, clock: Clock) -> Result<(), ClientError> {
    let asked = clock.now();
    // An older controller, during an update, does not tell (spec J21).
    if let Some(jobs) = client.active_jobs().await? {
        to.put(Event::ActiveJobs { asked, jobs }).await;
    }
    Ok(())
}
