use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::challenge::ChallengeKind;
use crate::managed::KeyPem;

fn managed(domain: &str) -> Managed {
    Managed::new(domain.parse().unwrap(), "id".into(), DateTime::UNIX_EPOCH)
}

fn domains(names: &[&str]) -> BTreeSet<Domain> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

async fn open(folder: &Path) -> FolderStore {
    FolderStore::open(folder.to_owned()).await.unwrap()
}

/// What the store has when this is so.
async fn until(store: &FolderStore, done: impl Fn(&Contents) -> bool) -> Contents {
    let limit = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let contents = store.read().await.unwrap();
        if done(&contents) {
            return contents;
        }
        assert!(std::time::Instant::now() < limit, "{contents:?}");
        store.changed().await;
    }
}

#[tokio::test]
async fn one_process_writes_and_all_see_it() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (open(folder.path()).await, open(folder.path()).await);
    let lease = one.lead().await.unwrap().expect("nobody else has it");
    assert!(two.lead().await.unwrap().is_none(), "one orders");
    let domain = "a.example.com".parse().unwrap();
    lease.put(&managed("a.example.com")).await.unwrap();
    let kind = ChallengeKind::Http01;
    let challenge = Challenge { domain, kind, token: "t".into(), key_authorization: "k".into() };
    lease.put_challenge(&challenge).await.unwrap();
    let contents = until(&two, |contents| !contents.challenges.is_empty()).await;
    assert_eq!(*contents.certificates[&challenge.domain], managed("a.example.com"));
    lease.remove_challenge(&challenge.domain).await.unwrap();
    lease.remove_challenge(&challenge.domain).await.unwrap();
    lease.remove(&challenge.domain).await.unwrap();
    until(&two, |contents| contents.challenges.is_empty() && contents.certificates.is_empty()).await;
    drop(lease);
    assert!(two.lead().await.unwrap().is_some(), "the next one takes over");
}

#[tokio::test]
async fn a_record_that_is_replaced_again_and_again_is_seen_in_its_last_state() {
    let folder = tempfile::tempdir().unwrap();
    let (writer, reader) = (open(folder.path()).await, open(folder.path()).await);
    let lease = writer.lead().await.unwrap().expect("nobody else has it");
    let domain: Domain = "a.example.com".parse().unwrap();
    for n in 0..50 {
        lease.put(&Managed { id: n.to_string(), ..managed("a.example.com") }).await.unwrap();
        // Within the resolution of time stamps, and of the same length.
        assert_eq!(reader.read().await.unwrap().certificates[&domain].id, n.to_string());
    }
}

#[tokio::test]
async fn what_processes_want_is_known_while_they_live() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (open(folder.path()).await, open(folder.path()).await);
    one.want(&domains(&["a.example.com", "b.example.com"])).await.unwrap();
    two.want(&domains(&["b.example.com", "c.example.com"])).await.unwrap();
    let all = domains(&["a.example.com", "b.example.com", "c.example.com"]);
    until(&one, |contents| contents.wanted == all).await;
    drop(two);
    until(&one, |contents| contents.wanted == domains(&["a.example.com", "b.example.com"])).await;
    // A process that was killed leaves its file; it counts for a while only.
    let old = Wanted { told_at: Utc::now() - TimeDelta::days(1), domains: domains(&["d.example.com"]) };
    write(folder.path().join(WANTED).join("dead.json"), &old).await.unwrap();
    assert!(!one.read().await.unwrap().wanted.contains(&"d.example.com".parse().unwrap()));
}

#[tokio::test]
async fn a_damaged_record_fails_itself_only_and_is_kept_aside() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let lease = store.lead().await.unwrap().expect("nobody else has it");
    lease.put(&managed("good.example.com")).await.unwrap();
    let certificates = folder.path().join(CERTIFICATES);
    for (name, text) in [("bad.example.com", "{"), ("half.example.com", ""), ("strange.example.com", "{\"domain\": 1}")]
    {
        std::fs::write(certificates.join(format!("{name}.json")), text).unwrap();
    }
    // An unfinished write is no record.
    std::fs::write(certificates.join(".good.example.com.json.5f2c"), "{").unwrap();
    let contents = store.read().await.unwrap();
    assert_eq!(contents.certificates.keys().map(Domain::as_str).collect::<Vec<_>>(), ["good.example.com"]);
    assert!(certificates.join("bad.example.com.damaged").exists());
}

#[tokio::test]
async fn only_the_owner_reads() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("new/acme");
    let store = open(&inside).await;
    let lease = store.lead().await.unwrap().expect("nobody else has it");
    lease.put(&managed("a.example.com")).await.unwrap();
    let account = Account { directory: "https://ca".into(), key: KeyPem::new("K".into()), url: None, email: None };
    lease.put_account(&account).await.unwrap();
    assert_eq!(lease.account("https://ca").await.unwrap(), Some(account));
    assert_eq!(lease.account("https://other").await.unwrap(), None);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for part in [ACCOUNTS, CERTIFICATES, CHALLENGES, WANTED] {
        assert_eq!(mode(&inside.join(part)), 0o700);
        for file in std::fs::read_dir(inside.join(part)).unwrap() {
            assert_eq!(mode(&file.unwrap().path()), 0o600);
        }
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let err = FolderStore::open(file.path().join("sub")).await.err().unwrap();
    assert!(err.to_string().contains(file.path().to_str().unwrap()), "{err}");
}
