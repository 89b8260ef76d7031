//! Many routes and certificates at once.

use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};

use crate::backend::Backend;
use crate::rig::{Rig, members, resident_bytes, route};
use crate::tls::{Authority, Pair, with_certificate};

const COUNT: usize = 10_000;
/// A route whose certificate cannot be used, as each thousandth one.
const BAD: usize = 500;

fn is_bad(n: usize) -> bool {
    n % 1_000 == BAD
}

#[tokio::test]
async fn ten_thousand_certificates_fit_in_little_memory_and_a_change_among_them_is_quick() {
    let authority = Authority::new();
    let backend = Backend::named("b").await;
    let domain = |n: usize| if n.is_multiple_of(2) { format!("app{n}.org") } else { format!("*.app{n}.org") };
    let mut routes = Vec::new();
    for n in 0..COUNT {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![domain(n)]).expect("parameters");
        let certificate = params.signed_by(&key, &authority.issuer).expect("a certificate");
        let key = if is_bad(n) { "no key".to_owned() } else { key.serialize_pem() };
        let pair = Pair { chain: certificate.pem(), key };
        routes.push(with_certificate(route(&domain(n), "s"), &pair));
    }
    let before = resident_bytes();
    let begin = Instant::now();
    let rig = Rig::start(routes, vec![members("s", &[backend.address])]).await;
    let started = begin.elapsed();
    for n in [0, 1, 4_999, 5_000, COUNT - 2, COUNT - 1] {
        let name = domain(n).replace('*', "www");
        assert_eq!(authority.get(rig.https(), &name).await, Ok("200 b".into()), "{name}");
    }
    assert!(authority.get(rig.https(), &domain(BAD)).await.is_err(), "it has no certificate, and the others have");
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 200 << 20, "{grown} bytes for {COUNT} certificates");
    let begin = Instant::now();
    rig.set(with_certificate(route("new.org", "s"), &authority.issue(&["new.org"]))).await;
    let changed = begin.elapsed();
    assert_eq!(authority.get(rig.https(), "new.org").await, Ok("200 b".into()));
    println_figures(started, grown, changed);
    // 50 ms are promised for a release build on a quiet machine.
    assert!(changed < Duration::from_secs(1), "{changed:?}");
}

#[expect(clippy::print_stdout, reason = "figures of a test, shown when it fails or is asked for")]
fn println_figures(started: Duration, grown: usize, changed: Duration) {
    println!("{COUNT} certificates: started in {started:?}, {grown} bytes, a change in {changed:?}");
}
