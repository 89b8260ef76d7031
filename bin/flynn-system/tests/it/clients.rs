//! Clients that people use, against the running program.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::backend::Backend;
use crate::rig::Router;

/// A router before one backend, and what clients have to know of it.
struct Site {
    router: Router,
    _backend: Backend,
}

impl Site {
    fn start() -> Self {
        let backend = Backend::start("backend 1");
        Self { router: Router::start(&[&backend], &[]), _backend: backend }
    }

    /// Runs a client with the addresses and the certificate in its environment. What it prints, if all went well.
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = Command::new(program)
            .args(arguments)
            .env("PLAIN", self.plain())
            .env("TLS", self.tls())
            .env("CA", self.ca())
            .env("NODE_EXTRA_CA_CERTS", self.ca())
            .output()
            .unwrap_or_else(|err| panic!("{program}: {err}; script/setup installs it"));
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{program} ends with {status}\n{stdout}\n{stderr}\n{}", self.router.log());
        stdout.into_owned()
    }

    fn plain(&self) -> String {
        format!("http://localhost:{}", self.router.http)
    }

    fn tls(&self) -> String {
        format!("https://localhost:{}", self.router.https)
    }

    fn ca(&self) -> PathBuf {
        self.router.folder.path().join("cert.pem")
    }
}

#[test]
fn curl_speaks_all_versions() {
    let site = Site::start();
    let (plain, tls, ca) = (site.plain(), site.tls(), site.ca().to_string_lossy().into_owned());
    let told = ["-sS", "--ipv4", "--cacert", &ca, "-w", " %{http_code} %{http_version} %{num_connects}\n"];
    for (arguments, expected) in [
        (vec![plain.as_str(), plain.as_str()], "backend 1 200 1.1 1\nbackend 1 200 1.1 0\n"),
        (vec!["--http1.0", &plain], "backend 1 200 1.1 1\n"),
        (vec!["--http1.1", &tls, &tls], "backend 1 200 1.1 1\nbackend 1 200 1.1 0\n"),
        (vec!["--http2", &tls, &tls], "backend 1 200 2 1\nbackend 1 200 2 0\n"),
        (vec!["--tlsv1.2", "--tls-max", "1.2", &tls], "backend 1 200 2 1\n"),
        (vec!["-d", "a body", &plain], "a body 200 1.1 1\n"),
        (vec!["-H", "Expect: 100-continue", "-d", "a body", &plain], "a body 200 1.1 1\n"),
        (vec!["-H", "Transfer-Encoding: chunked", "-d", "a body", &plain], "a body 200 1.1 1\n"),
        (vec!["--http2", "-d", "a body", &tls], "a body 200 2 1\n"),
        (vec!["-I", "-o", "/dev/null", &plain], " 200 1.1 1\n"),
    ] {
        // Expected of HTTP/1.0 is an answer that says 1.1: the version is the sender's (RFC 9110 section 6.2).
        let output = site.run("curl", &[&told[..], &arguments[..]].concat());
        let output = output.replace(" 200 1 ", " 200 1.1 ").replace(" 200 1.0 ", " 200 1.1 ");
        assert_eq!(output, expected, "{arguments:?}");
    }
}

#[test]
fn python_keeps_connections_and_sends_bodies() {
    let script = r#"
import http.client, os, httpx, requests
plain, tls, ca = os.environ["PLAIN"], os.environ["TLS"], os.environ["CA"]
connection = http.client.HTTPConnection("127.0.0.1", int(plain.rsplit(":", 1)[1]))
connection.connect()
socket = connection.sock
for body in [None, b"x" * 200000, iter([b"one", b"two"])]:
    method = "GET" if body is None else "POST"
    connection.request(method, "/", body=body, encode_chunked=True)
    response = connection.getresponse()
    print(response.status, len(response.read()), connection.sock is socket)
with requests.Session() as session:
    for _ in range(2):
        print(session.get(tls, verify=ca).text, session.post(tls, data=b"y" * 70000, verify=ca).text.count("y"))
for http2 in [False, True]:
    with httpx.Client(http2=http2, verify=ca) as client:
        answers = [client.get(tls), client.post(tls, content=b"z" * 70000)]
        print([(answer.http_version, answer.status_code, len(answer.content)) for answer in answers])
"#;
    let site = Site::start();
    assert_eq!(
        site.run("/usr/bin/python3", &["-c", script]),
        "200 9 True\n200 200000 True\n200 6 True\nbackend 1 70000\nbackend 1 70000\n\
         [('HTTP/1.1', 200, 9), ('HTTP/1.1', 200, 70000)]\n[('HTTP/2', 200, 9), ('HTTP/2', 200, 70000)]\n"
    );
}

#[test]
fn node_fetches_and_keeps_connections() {
    let script = r#"
const http = require('http'), http2 = require('http2'), fs = require('fs');
const { PLAIN, TLS, CA } = process.env;
const read = stream => new Promise((resolve, reject) => {
  let text = ''; stream.on('data', piece => text += piece).on('end', () => resolve(text)).on('error', reject);
});
(async () => {
  for (const url of [PLAIN, TLS]) {
    const answer = await fetch(url, { method: 'POST', body: 'x'.repeat(70000) });
    console.log(answer.status, (await answer.text()).length, await (await fetch(url)).text());
  }
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  for (let round = 0; round < 3; round++) {
    const request = http.get(PLAIN, { agent });
    const answer = await new Promise((resolve, reject) => request.on('response', resolve).on('error', reject));
    console.log(answer.statusCode, await read(answer), request.reusedSocket);
    await new Promise(setImmediate);
  }
  agent.destroy();
  const session = http2.connect(TLS, { ca: fs.readFileSync(CA) });
  const streams = Array.from({ length: 50 }, () => session.request({ ':path': '/' }));
  console.log(new Set(await Promise.all(streams.map(read))));
  session.close();
})().catch(error => { console.error(error); process.exit(1); });
"#;
    let site = Site::start();
    assert_eq!(
        site.run("node", &["-e", script]),
        "200 70000 backend 1\n200 70000 backend 1\n200 backend 1 false\n200 backend 1 true\n200 backend 1 true\n\
         Set(1) { 'backend 1' }\n"
    );
}

#[test]
fn h2load_gets_all_its_answers() {
    let site = Site::start();
    let tls = format!("{}/", site.tls());
    for version in [&["-m", "10"][..], &["--h1"][..]] {
        let output = site.run("h2load", &[version, &["-n", "500", "-c", "8", tls.as_str()]].concat());
        let line = output.lines().find(|line| line.starts_with("requests:")).unwrap_or_default();
        assert!(line.contains("500 succeeded, 0 failed, 0 errored, 0 timeout"), "{output}");
    }
}
