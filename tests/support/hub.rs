//! A small hub on loopback: HTTP/1.1 on std::net, one request a connection, with the faults that a
//! real network has.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

pub const COMMIT: &str = "00112233445566778899aabbccddeeff00112233";

/// What goes wrong with the next body of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The connection closes after so many bytes.
    CloseAfter(usize),
    /// Nothing comes after so many bytes.
    StallAfter(usize),
    /// The whole file comes, whatever was asked for.
    IgnoreRange,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

#[derive(Clone)]
struct Served {
    body: Arc<Vec<u8>>,
    etag: String,
    /// Large files are redirected to where storage is.
    large: bool,
}

#[derive(Default)]
struct State {
    files: HashMap<String, Served>,
    faults: HashMap<String, VecDeque<Fault>>,
    log: Vec<Request>,
    /// Without this token: this status.
    gate: Option<(String, u16)>,
    /// Every answer has this status.
    broken: Option<u16>,
    /// Answers lack the hub's own headers.
    plain: bool,
}

/// A running hub. Its thread ends with the test process.
pub struct Hub {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, address) = (state.clone(), endpoint.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, address) = (shared.clone(), address.clone());
                // A client that hangs up is one of the cases under test.
                std::thread::spawn(move || answer(stream, &shared, &address).ok());
            }
        });
        Self { endpoint, state }
    }

    /// Serves a file of `repo` (`owner/name`); large ones from storage, under their hash.
    pub fn put(&self, repo: &str, path: &str, body: &[u8], large: bool) {
        let sha256 = sha256(body);
        let etag = if large {
            sha256
        } else {
            sha256[..40].to_owned()
        };
        self.put_as(repo, path, body, large, &etag);
    }

    /// The same with an etag of choice.
    pub fn put_as(&self, repo: &str, path: &str, body: &[u8], large: bool, etag: &str) {
        let served = Served {
            body: Arc::new(body.to_vec()),
            etag: etag.to_owned(),
            large,
        };
        let mut state = self.state.lock().unwrap();
        state.files.insert(format!("{repo}/{path}"), served);
    }

    pub fn fault(&self, repo: &str, path: &str, fault: Fault) {
        let mut state = self.state.lock().unwrap();
        let faults = state.faults.entry(format!("{repo}/{path}")).or_default();
        faults.push_back(fault);
    }

    pub fn gate(&self, token: &str, status: u16) {
        self.state.lock().unwrap().gate = Some((token.to_owned(), status));
    }

    pub fn break_with(&self, status: u16) {
        self.state.lock().unwrap().broken = Some(status);
    }

    pub fn forget_to_be_a_hub(&self) {
        self.state.lock().unwrap().plain = true;
    }

    /// The requests since the last call.
    pub fn take_log(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }
}

pub fn sha256(body: &[u8]) -> String {
    Sha256::digest(body)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn answer(mut stream: TcpStream, state: &Mutex<State>, address: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let target = first.split(' ').nth(1).unwrap_or("").to_owned();
    let mut headers = HashMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let request = Request {
        path: target.clone(),
        range: headers.get("range").cloned(),
        authorization: headers.get("authorization").cloned(),
    };

    let (key, from_storage) = match target.strip_prefix("/storage/") {
        Some(key) => (key.to_owned(), true),
        // /owner/name/resolve/revision/path…
        None => {
            let steps: Vec<&str> = target.splitn(6, '/').collect();
            match steps[..] {
                [_, owner, name, "resolve", _, path] => (format!("{owner}/{name}/{path}"), false),
                _ => (String::new(), false),
            }
        }
    };
    let is_probe = request.range.as_deref() == Some("bytes=0-0");
    let (served, fault, gate, broken, plain) = {
        let mut state = state.lock().unwrap();
        state.log.push(request.clone());
        let served = state.files.get(&key).cloned();
        let sends_body = !is_probe && served.as_ref().is_some_and(|s| s.large == from_storage);
        let faults = state.faults.get_mut(&key).filter(|_| sends_body);
        let fault = faults.and_then(VecDeque::pop_front);
        (served, fault, state.gate.clone(), state.broken, state.plain)
    };

    if let Some(status) = broken {
        return head(&mut stream, status, &[], 0);
    }
    if let Some((token, status)) = gate
        && !from_storage
        && request.authorization != Some(format!("Bearer {token}"))
    {
        return head(&mut stream, status, &[], 0);
    }
    let Some(served) = served else {
        return head(&mut stream, 404, &[], 0);
    };
    let size = served.body.len();
    let mut fields = vec![];
    if !plain {
        fields.push(format!("ETag: \"{}\"", served.etag));
        fields.push(format!("X-Repo-Commit: {COMMIT}"));
    }
    if served.large && !from_storage {
        fields.push(format!("X-Linked-Etag: \"{}\"", served.etag));
        fields.push(format!("X-Linked-Size: {size}"));
        fields.push(format!("Location: {address}/storage/{key}"));
        return head(&mut stream, 302, &fields, 0);
    }

    let ranged = request
        .range
        .as_ref()
        .and_then(|r| r.strip_prefix("bytes="));
    let (start, end) = match ranged.and_then(|r| r.split_once('-')) {
        Some((start, end)) if fault != Some(Fault::IgnoreRange) => {
            let end: usize = end.parse().map_or(size, |end: usize| end + 1);
            (start.parse().unwrap_or(0), end.min(size))
        }
        _ => (0, size),
    };
    if start >= end {
        fields.push(format!("Content-Range: bytes */{size}"));
        return head(&mut stream, 416, &fields, 0);
    }
    let status = if fault == Some(Fault::IgnoreRange) {
        200
    } else {
        206
    };
    if status == 206 {
        fields.push(format!("Content-Range: bytes {start}-{}/{size}", end - 1));
    }
    head(&mut stream, status, &fields, end - start)?;
    let body = &served.body[start..end];
    match fault {
        Some(Fault::CloseAfter(bytes)) => stream.write_all(&body[..bytes.min(body.len())]),
        Some(Fault::StallAfter(bytes)) => {
            stream.write_all(&body[..bytes.min(body.len())])?;
            std::thread::sleep(Duration::from_secs(30));
            Ok(())
        }
        _ => stream.write_all(body),
    }
}

fn head(
    stream: &mut TcpStream,
    status: u16,
    fields: &[String],
    length: usize,
) -> std::io::Result<()> {
    let mut text =
        format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}\r\n");
    for field in fields {
        text.push_str(field);
        text.push_str("\r\n");
    }
    stream.write_all(format!("{text}\r\n").as_bytes())
}
