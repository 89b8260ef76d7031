//! The log of a whole process. One test per process: the log is set up once.

use std::error::Error;
use std::fmt;

use flynn_telemetry::{InitError, LogConfig, LogFile, init};

#[derive(Debug)]
struct Outer;
impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("read state")
    }
}
impl Error for Outer {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&fmt::Error)
    }
}

#[test]
fn events_spans_errors_and_panics_arrive_as_lines_that_readers_know() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flynn-host.log");
    let config = LogConfig { file: Some(LogFile::new(&path)), stderr: false, ..LogConfig::new("host") };
    let logs = init(config.clone()).unwrap();
    assert!(matches!(init(config), Err(InitError::Twice)));

    let span = tracing::info_span!("request", req_id = "r1", status = tracing::field::Empty);
    span.in_scope(|| {
        span.record("status", 200);
        tracing::info!(method = "GET", path = "/host/jobs", "request completed");
    });
    tracing::warn!(component = "init", err = &Outer as &dyn Error, "it failed");
    tracing::debug!("not asked for");
    logs.set_filter("debug").unwrap();
    tracing::debug!("asked for");
    let _ = std::panic::catch_unwind(|| panic!("as the test wants"));

    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let pid = std::process::id();
    let wanted = [
        format!(
            r#" lvl=info msg="request completed" app=host pid={pid} component=it req_id=r1 status=200 method=GET path=/host/jobs"#
        ),
        format!(r#" lvl=warn msg="it failed" app=host pid={pid} component=init err="read state: {}""#, fmt::Error),
        format!(r#" lvl=dbug msg="asked for" app=host pid={pid} component=it"#),
        format!(r#" lvl=eror msg=panic app=host pid={pid} component=telemetry panic="as the test wants" place="#),
    ];
    assert_eq!(lines.len(), wanted.len(), "{text}");
    for (line, wanted) in lines.iter().zip(&wanted) {
        assert!(line.starts_with("t=20") && line.contains(wanted.as_str()), "{line}\nlacks\n{wanted}");
    }
    std::fs::rename(&path, folder.path().join("rotated")).unwrap();
    logs.reopen();
    tracing::info!("after rotation");
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
    assert_eq!(logs.lost_lines(), 0);
}
