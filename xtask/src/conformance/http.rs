//! A blocking HTTP/1.1 client with what a client of one endpoint needs: a connection per request, and an
//! answer that is one body or a stream of events.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a connection may be silent. On a stream without news Seawall sends a comment more often.
const SILENCE: Duration = Duration::from_secs(40);

/// An answer whose body is yet to be read.
#[derive(Debug)]
pub(super) struct Response<R = TcpStream> {
    pub(super) status: u16,
    /// Names are in lower case.
    headers: Vec<(String, String)>,
    body: BufReader<Body<R>>,
}

/// One server-sent event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) id: Option<String>,
    /// After how many milliseconds a stream that ended may be taken up again.
    pub(super) retry: Option<u64>,
    pub(super) data: String,
}

/// Sends a request and reads the head of its answer.
pub(super) fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, String)],
    body: &str,
) -> io::Result<Response> {
    let mut stream = TcpStream::connect_timeout(&address, SILENCE)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    Response::read_head(stream)
}

impl<R: Read> Response<R> {
    fn read_head(source: R) -> io::Result<Self> {
        let mut source = BufReader::new(source);
        let first = read_line(&mut source)?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| broken(&first))?;
        let mut headers = Vec::new();
        loop {
            let line = read_line(&mut source)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| broken(&line))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let framing = Framing::of(&headers)?;
        Ok(Self { status, headers, body: BufReader::new(Body { source, framing }) })
    }

    /// The value of the header of this name, which is in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// Whether the body is a stream of events.
    pub(super) fn is_stream(&self) -> bool {
        self.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"))
    }

    /// All of the body.
    pub(super) fn text(mut self) -> io::Result<String> {
        let mut text = String::new();
        self.body.read_to_string(&mut text)?;
        Ok(text)
    }

    /// The next event; `None` when the stream has ended. Comments are passed over.
    pub(super) fn next_event(&mut self) -> io::Result<Option<Event>> {
        let mut event = Event::default();
        let mut is_empty = true;
        let mut line = String::new();
        loop {
            line.clear();
            if self.body.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let text = line.trim_end_matches(['\r', '\n']);
            if text.is_empty() {
                if is_empty {
                    continue;
                }
                return Ok(Some(event));
            }
            let (field, value) = text.split_once(':').unwrap_or((text, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => event.id = Some(value.to_owned()),
                "retry" => event.retry = value.parse().ok(),
                "data" => {
                    if !event.data.is_empty() {
                        event.data.push('\n');
                    }
                    event.data.push_str(value);
                }
                _ => continue,
            }
            is_empty = false;
        }
    }
}

/// How a body's end is known.
#[derive(Debug, Clone, Copy)]
enum Framing {
    /// By the chunk of no length; this much of the present one is left.
    Chunked(usize),
    /// By its length; this much is left.
    Counted(usize),
    /// By the end of the connection.
    ToTheEnd,
}

impl Framing {
    fn of(headers: &[(String, String)]) -> io::Result<Self> {
        if find(headers, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Ok(Self::Chunked(0));
        }
        match find(headers, "content-length") {
            Some(length) => Ok(Self::Counted(length.parse().map_err(|_| broken(length))?)),
            None => Ok(Self::ToTheEnd),
        }
    }
}

/// The bytes of a body, without the marks of its chunks.
#[derive(Debug)]
struct Body<R> {
    source: BufReader<R>,
    framing: Framing,
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Framing::Chunked(0) = self.framing {
            self.framing = match next_chunk(&mut self.source)? {
                0 => Framing::Counted(0),
                length => Framing::Chunked(length),
            };
        }
        let (Framing::Chunked(left) | Framing::Counted(left)) = &mut self.framing else {
            return self.source.read(buffer);
        };
        let wanted = buffer.len().min(*left);
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.source.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        *left -= count;
        Ok(count)
    }
}

/// The length of the next chunk.
fn next_chunk(source: &mut impl BufRead) -> io::Result<usize> {
    let mut line = read_line(source)?;
    // The line break that ends the chunk before.
    if line.is_empty() {
        line = read_line(source)?;
    }
    let length = line.split(';').next().unwrap_or_default().trim();
    usize::from_str_radix(length, 16).map_err(|_| broken(&line))
}

/// A line without its end; the end of the connection is an error.
fn read_line(source: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if source.read_line(&mut line)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(line)
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
}

fn broken(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("not HTTP: {what:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Response<&[u8]> {
        Response::read_head(text.as_bytes()).unwrap()
    }

    #[test]
    fn bodies_end_where_they_say() {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n";
        let counted = format!("{head}Content-Length: 3\r\n\r\nabcd");
        let counted = answer(&counted);
        assert_eq!((counted.status, counted.header("content-type")), (200, Some("text/plain")));
        assert_eq!(counted.text().unwrap(), "abc");
        let chunked =
            format!("{head}Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\nb;x=y\r\n, and so on\r\n0\r\n\r\n");
        let chunked = answer(&chunked);
        assert_eq!(chunked.text().unwrap(), "ab, and so on");
        assert_eq!(answer(&format!("{head}\r\nto the end")).text().unwrap(), "to the end");
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        ] {
            assert!(answer(text).text().is_err(), "{text}");
        }
        for head in ["", "HTTP/1.1 200 OK\r\n", "nonsense\r\n\r\n"] {
            assert!(Response::read_head(head.as_bytes()).is_err(), "{head}");
        }
    }

    #[test]
    fn events_are_told_from_comments() {
        let mut stream = answer(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n\
             : hello\n\nid: 1-0\nretry: 500\ndata: \n\nevent: message\ndata: {\"a\":\ndata: 1}\n\ndata: lost",
        );
        assert!(stream.is_stream());
        let first = Event { id: Some("1-0".to_owned()), retry: Some(500), data: String::new() };
        assert_eq!(stream.next_event().unwrap(), Some(first));
        assert_eq!(stream.next_event().unwrap().unwrap().data, "{\"a\":\n1}");
        assert_eq!(stream.next_event().unwrap(), None);
    }
}
