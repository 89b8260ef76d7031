//! The PROXY protocol, versions 1 and 2, as a load balancer in front of us speaks it (spec router section 16). Pure.
//!
//! The format is HAProxy's `proxy-protocol.txt`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest line of version 1.
const V1_MAX: usize = 107;
/// Longest addresses and options of version 2 that are read.
const V2_MAX: usize = 4096;
const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Not yet to be told: read more.
    Incomplete,
    /// No header: all bytes are the client's.
    Absent,
    /// A header of so many bytes. Without a source the peer of the socket is the client.
    Header { length: usize, source: Option<SocketAddr> },
}

/// A header that means nothing: the connection has to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PROXY protocol header is wrong: {0}")]
pub struct Malformed(&'static str);

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// The header that tells a backend who its client is: the `source` of a connection, which came to `destination`.
///
/// Addresses of IPv4 that came by a socket of both families are told as such. A pair of two families is told as one of
/// IPv6, which is the only form that both can have.
pub fn header(version: Version, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (mut from, mut to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    if from.is_ipv4() != to.is_ipv4() {
        (from, to) = (IpAddr::V6(mapped(from)), IpAddr::V6(mapped(to)));
    }
    match version {
        Version::V1 => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
        }
        Version::V2 => {
            let addresses = match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
                _ => [mapped(from).octets(), mapped(to).octets()].concat(),
            };
            let family = if from.is_ipv4() { 0x11 } else { 0x21 };
            let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
            let size = u16::try_from(addresses.len() + ports.len()).expect("at most 36 bytes").to_be_bytes();
            [V2_START, &[0x21, family], &size, &addresses, &ports].concat()
        }
    }
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Reads the header at the begin of a connection.
///
/// # Errors
/// When it begins like a header and then is none.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if bytes.is_empty() {
        return Ok(Parsed::Incomplete);
    }
    for (start, read) in [(V1_START, v1 as fn(&[u8]) -> Result<Parsed, Malformed>), (V2_START, v2)] {
        let common = bytes.len().min(start.len());
        if bytes[..common] == start[..common] {
            return if bytes.len() < start.len() { Ok(Parsed::Incomplete) } else { read(bytes) };
        }
    }
    Ok(Parsed::Absent)
}

fn v1(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let Some(end) = bytes.iter().take(V1_MAX).position(|byte| *byte == b'\n') else {
        return if bytes.len() < V1_MAX { Ok(Parsed::Incomplete) } else { Err(Malformed("its line does not end")) };
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or(Malformed("its line does not end in CR LF"))?;
    let line = std::str::from_utf8(line).map_err(|_| Malformed("it is no text"))?;
    let length = end + 1;
    let fields: Vec<_> = line.split(' ').collect();
    let source = match fields[..] {
        // Whatever follows UNKNOWN is to be ignored.
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family, source, destination, source_port, destination_port] => {
            let _: (IpAddr, u16) = (address(family, destination)?, port(destination_port)?);
            Some(SocketAddr::new(address(family, source)?, port(source_port)?))
        }
        _ => return Err(Malformed("it has not six fields")),
    };
    Ok(Parsed::Header { length, source })
}

fn address(family: &str, text: &str) -> Result<IpAddr, Malformed> {
    let address = match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4),
        "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6),
        _ => return Err(Malformed("its family is none of TCP4, TCP6 and UNKNOWN")),
    };
    address.map_err(|_| Malformed("an address is none of its family"))
}

fn port(text: &str) -> Result<u16, Malformed> {
    text.parse().map_err(|_| Malformed("a port is no number up to 65535"))
}

fn v2(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let Some((head, rest)) = bytes.split_at_checked(16) else { return Ok(Parsed::Incomplete) };
    let (version_and_command, family) = (head[12], head[13]);
    let size = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if version_and_command >> 4 != 2 {
        return Err(Malformed("its version is not 2"));
    }
    if size > V2_MAX {
        return Err(Malformed("it is too long"));
    }
    let Some(body) = rest.get(..size) else { return Ok(Parsed::Incomplete) };
    let source = match (version_and_command & 0x0f, family) {
        // LOCAL: the balancer speaks for itself, such as for a health check.
        (0, _) => None,
        (1, 0x11) => Some(v2_source::<4>(body)?),
        (1, 0x21) => Some(v2_source::<16>(body)?),
        // Unix sockets, datagrams and unspecified families carry no address that we could use.
        (1, _) => None,
        _ => return Err(Malformed("its command is unknown")),
    };
    Ok(Parsed::Header { length: 16 + size, source })
}

fn v2_source<const N: usize>(body: &[u8]) -> Result<SocketAddr, Malformed>
where
    IpAddr: From<[u8; N]>,
{
    let short = Malformed("its addresses are cut off");
    // Source and destination address, then source and destination port.
    let (address, rest) = body.split_first_chunk::<N>().ok_or(short)?;
    let (_destination, ports) = rest.split_first_chunk::<N>().ok_or(short)?;
    let port = ports.first_chunk::<4>().ok_or(short)?;
    Ok(SocketAddr::new(IpAddr::from(*address), u16::from_be_bytes([port[0], port[1]])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(length: usize, source: &str) -> Result<Parsed, Malformed> {
        Ok(Parsed::Header { length, source: (!source.is_empty()).then(|| source.parse().unwrap()) })
    }

    #[test]
    fn h3_h4_lines_of_version_1_name_the_client() {
        let line = b"PROXY TCP4 10.1.1.1 20.2.2.2 1000 2000\r\nfoo";
        assert_eq!(parse(line), found(line.len() - 3, "10.1.1.1:1000"));
        let line = b"PROXY TCP6 ffff::ffff ::1 1000 2000\r\n";
        assert_eq!(parse(line), found(line.len(), "[ffff::ffff]:1000"));
        for length in 0..line.len() {
            assert_eq!(parse(&line[..length]), Ok(Parsed::Incomplete), "{length} bytes of it");
        }
    }

    #[test]
    fn h2_h6_other_bytes_are_told_apart_at_once() {
        for bytes in [&b"G"[..], b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"PROXX", b"\r\nx", b"PROXY\t"] {
            assert_eq!(parse(bytes), Ok(Parsed::Absent), "{bytes:?}");
        }
    }

    #[test]
    fn what_backends_are_told_is_what_is_read() {
        for (source, destination, line) in [
            ("10.1.1.1:1000", "20.2.2.2:80", "PROXY TCP4 10.1.1.1 20.2.2.2 1000 80\r\n"),
            ("[fe80::1]:1000", "[::1]:80", "PROXY TCP6 fe80::1 ::1 1000 80\r\n"),
            ("[::ffff:10.1.1.1]:1000", "[::ffff:20.2.2.2]:80", "PROXY TCP4 10.1.1.1 20.2.2.2 1000 80\r\n"),
            ("10.1.1.1:1000", "[::1]:80", "PROXY TCP6 ::ffff:10.1.1.1 ::1 1000 80\r\n"),
        ] {
            let (source, destination): (SocketAddr, SocketAddr) =
                (source.parse().unwrap(), destination.parse().unwrap());
            let v1 = header(Version::V1, source, destination);
            assert_eq!(String::from_utf8_lossy(&v1), line);
            for header in [v1, header(Version::V2, source, destination)] {
                let Ok(Parsed::Header { length, source: Some(read) }) = parse(&header) else { panic!("{header:?}") };
                assert_eq!((length, read.port()), (header.len(), source.port()));
                assert_eq!(read.ip().to_canonical(), source.ip().to_canonical());
            }
        }
    }

    #[test]
    fn h5_wrong_lines_are_refused() {
        for line in [
            "PROXY TCP4 what 20.2.2.2 1000 2000\r\n",
            "PROXY TCP4 ::1 20.2.2.2 1000 2000\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1000 65536\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1000\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1000 2000 x\r\n",
            "PROXY UDP4 1.1.1.1 2.2.2.2 1000 2000\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1000 2000\n",
            "PROXY \r\n",
        ] {
            assert!(parse(line.as_bytes()).is_err(), "{line}");
        }
        let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 93]].concat();
        assert_eq!(endless.len(), V1_MAX);
        assert_eq!(parse(&endless[..V1_MAX - 1]), Ok(Parsed::Incomplete));
        assert!(parse(&endless).is_err());
    }

    #[test]
    fn h7_unknown_clients_and_version_2_are_understood() {
        assert_eq!(parse(b"PROXY UNKNOWN\r\nGET"), found(15, ""));
        assert_eq!(parse(b"PROXY UNKNOWN ::1 ::2 1 2\r\n"), found(27, ""));
        let v2 = |command: u8, family: u8, body: &[u8]| {
            let size = u16::try_from(body.len()).unwrap().to_be_bytes();
            [V2_START, &[0x20 | command, family], &size, body].concat()
        };
        let four = v2(1, 0x11, &[10, 1, 1, 1, 20, 2, 2, 2, 3, 232, 7, 208]);
        assert_eq!(parse(&four), found(28, "10.1.1.1:1000"));
        for length in 1..four.len() {
            assert_eq!(parse(&four[..length]), Ok(Parsed::Incomplete), "{length} bytes of it");
        }
        let mut six = vec![0; 36 + 7]; // with options behind
        (six[15], six[33]) = (1, 80);
        assert_eq!(parse(&v2(1, 0x21, &six)), found(59, "[::1]:80"));
        assert_eq!(parse(&v2(0, 0, &[])), found(16, ""));
        assert_eq!(parse(&v2(1, 0x31, &[0; 216])), found(232, ""));
        assert!(parse(&v2(2, 0x11, &[0; 12])).is_err());
        assert!(parse(&v2(1, 0x11, &[0; 11])).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_upset_the_parser(start in 0..3_usize, bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let all = [[&b""[..], V1_START, V2_START][start], &bytes].concat();
            if let Ok(Parsed::Header { length, .. }) = parse(&all) {
                proptest::prop_assert!(length <= all.len());
            }
        }
    }
}
