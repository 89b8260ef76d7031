//! HTTPS.

use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use super::*;

#[tokio::test]
async fn servers_are_trusted_by_their_certificates_alone() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n7").await.unwrap();
        }
    });
    let ask = async |host: &str, trusts: bool| {
        let base = format!("https://{host}:{port}");
        let client = if trusts { Client::with_roots(&base, [certificate.clone()]) } else { Client::new(&base) };
        client.get_json::<u8>("/").await
    };
    assert_eq!(ask("localhost", true).await.unwrap(), 7);
    assert!(matches!(ask("localhost", false).await, Err(ClientError::Connect { .. })), "an unknown authority");
    assert!(matches!(ask("127.0.0.1", true).await, Err(ClientError::Connect { .. })), "another name");
    server.abort();
}
