//! What the file server answers, well or as badly as it is told to.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::{Fault, Seen, State};
use crate::http_request::{Range, Request};

/// How much is sent at once.
const CHUNK: usize = 64 << 10;
/// How often a slow file goes on.
const TICK: Duration = Duration::from_millis(100);

/// Whether the body was sent as promised.
#[derive(PartialEq, Eq)]
pub(super) enum Ending {
    Whole,
    Cut,
}

/// One request and its answer.
pub(super) fn answer(stream: &mut (impl Read + Write), state: &State) -> io::Result<Ending> {
    let request = Request::read(stream)?;
    let fault = {
        let mut inner = state.inner();
        let fault = inner.faults.get(&request.file).copied();
        // There is nothing to cut in the answer to `HEAD`.
        let once = match fault {
            Some(Fault::StatusOnce(_)) => true,
            Some(Fault::CutOnce(_)) => request.method == "GET",
            _ => false,
        };
        if once {
            inner.faults.remove(&request.file);
        }
        fault
    };
    let tell = |status| {
        state
            .inner()
            .seen
            .entry(request.file.clone())
            .or_default()
            .push(Seen {
                method: request.method.clone(),
                from: request.range.map(|range| range.first),
                status,
            });
    };
    let mut plain = |status: u16| {
        tell(status);
        let head = format!("HTTP/1.1 {status} \r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        stream.flush().map(|()| Ending::Whole)
    };
    if let Some(Fault::Status(status) | Fault::StatusOnce(status)) = fault {
        return plain(status);
    }
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return plain(405);
    }
    // One folder deep: nothing outside of it has a name.
    if request.file.contains(['/', '\0']) || matches!(request.file.as_str(), "" | "." | "..") {
        return plain(404);
    }
    let path = state.folder.join(&request.file);
    let Ok(mut file) = File::open(&path) else {
        return plain(404);
    };
    let (size, tag) = size_and_tag(&path)?;
    let ranges = !matches!(fault, Some(Fault::NoRanges));
    let range = request
        .range
        .filter(|_| ranges && request.if_range.as_ref().is_none_or(|known| *known == tag));
    let (first, end) = match range {
        None => (0, size),
        Some(Range { first, .. }) if first >= size => return plain(416),
        Some(Range { first, last }) => (
            first,
            last.map_or(size, |last| size.min(last.saturating_add(1))),
        ),
    };
    let status = if range.is_some() { 206 } else { 200 };
    tell(status);
    let mut head = format!("HTTP/1.1 {status} \r\nconnection: close\r\netag: {tag}\r\n");
    if ranges {
        head.push_str("accept-ranges: bytes\r\n");
    }
    if range.is_some() {
        let last = end.saturating_sub(1);
        head.push_str(&format!("content-range: bytes {first}-{last}/{size}\r\n"));
    }
    if fault != Some(Fault::Endless) {
        head.push_str(&format!("content-length: {}\r\n", end - first));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.flush()?;
    if request.method == "HEAD" {
        return Ok(Ending::Whole);
    }
    file.seek(SeekFrom::Start(first))?;
    send(stream, &mut file.take(end - first), fault, state)
}

/// The body, as well or as badly as is asked for.
fn send(
    stream: &mut impl Write,
    body: &mut impl Read,
    fault: Option<Fault>,
    state: &State,
) -> io::Result<Ending> {
    let mut left = match fault {
        Some(Fault::CutOnce(bytes)) => bytes,
        _ => u64::MAX,
    };
    let chunk = match fault {
        Some(Fault::Slow(rate)) => {
            let ticks = u32::try_from(Duration::from_secs(1).as_millis() / TICK.as_millis())
                .unwrap_or(u32::MAX);
            usize::try_from(rate / ticks)
                .unwrap_or(CHUNK)
                .clamp(1, CHUNK)
        }
        _ => CHUNK,
    };
    let mut buffer = vec![0; chunk];
    loop {
        if state.inner().over {
            return Ok(Ending::Cut);
        }
        let mut count = body.read(&mut buffer)?;
        if count == 0 && fault == Some(Fault::Endless) {
            buffer.fill(0);
            count = buffer.len();
        }
        if count == 0 {
            stream.flush()?;
            return Ok(Ending::Whole);
        }
        let now = count.min(usize::try_from(left).unwrap_or(usize::MAX));
        stream.write_all(&buffer[..now])?;
        left -= u64::try_from(now).unwrap_or(left);
        if now < count {
            stream.flush()?;
            return Ok(Ending::Cut);
        }
        if matches!(fault, Some(Fault::Slow(_))) {
            stream.flush()?;
            if !state.pause(TICK) {
                return Ok(Ending::Cut);
            }
        }
    }
}

/// The tag is another one when the file was written anew.
fn size_and_tag(path: &Path) -> io::Result<(u64, String)> {
    let meta = fs::metadata(path)?;
    let age = meta
        .modified()?
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok((
        meta.len(),
        format!("\"{:x}-{:x}\"", meta.len(), age.as_nanos()),
    ))
}
