//! The runtime's HTTP interface, seen from the host.
//!
//! Every call has a deadline and a connection of its own: the user-mode network accepts a
//! connection on the host's side before the guest has answered, and a kept connection would
//! outlive the service behind it.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Any answer of the runtime is one, whatever its status.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// What the server's clock showed, as the header `Date` has it.
    pub date: Option<String>,
    /// The body as text.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// When it is not; the message holds the body.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body)
            .with_context(|| format!("the answer is not JSON: {}", self.body))
    }
}

/// A client of one appliance.
#[derive(Debug, Clone)]
pub struct Api {
    base: String,
    agent: ureq::Agent,
}

impl Api {
    /// The appliance whose API is forwarded to this port of the host's loopback.
    #[must_use]
    pub fn new(port: u16) -> Self {
        Self::at((Ipv4Addr::LOCALHOST, port).into())
    }

    /// The appliance that answers at this address.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_idle_connections(0)
            .proxy(None)
            .build();
        Self {
            base: format!("http://{address}"),
            agent: config.into(),
        }
    }

    /// The address people can open.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// `GET path`.
    ///
    /// # Errors
    /// When no answer came within `within`.
    pub fn get(&self, path: &str, within: Duration) -> Result<Answer> {
        let url = format!("{}{path}", self.base);
        let response = self
            .agent
            .get(&url)
            .config()
            .timeout_global(Some(within))
            .build()
            .call();
        answer(&url, response)
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// When no answer came within `within`.
    pub fn post(&self, path: &str, body: &Value, within: Duration) -> Result<Answer> {
        let url = format!("{}{path}", self.base);
        let response = self
            .agent
            .post(&url)
            .config()
            .timeout_global(Some(within))
            .build()
            .content_type("application/json")
            .send(body.to_string());
        answer(&url, response)
    }

    /// Whether `GET /v1/health` answers 200, and with which body.
    ///
    /// # Errors
    /// When there was no answer or another status.
    pub fn health(&self, within: Duration) -> Result<Value> {
        let answer = self.get("/v1/health", within)?;
        if answer.status != 200 {
            bail!("/v1/health answers {}: {}", answer.status, answer.body);
        }
        answer.json()
    }

    /// Asks for health again and again until it is there; gives its body. One question is never
    /// given more than `patience`, because one asked before the guest has an address is lost and
    /// only repeated with growing pauses by the user-mode network.
    ///
    /// # Errors
    /// When the deadline passes first; the message holds the last failure.
    pub fn wait_healthy(
        &self,
        deadline: Instant,
        step: Duration,
        patience: Duration,
    ) -> Result<Value> {
        loop {
            match self.health(patience) {
                Ok(body) => return Ok(body),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).context("the runtime did not become healthy in time");
                }
                Err(_) => std::thread::sleep(step),
            }
        }
    }
}

fn answer(
    url: &str,
    response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<Answer> {
    let mut response = response.with_context(|| format!("no answer from {url}"))?;
    let body = response
        .body_mut()
        .read_to_string()
        .with_context(|| format!("the answer from {url} broke off"))?;
    let date = response.headers().get("date");
    Ok(Answer {
        status: response.status().as_u16(),
        date: date.and_then(|date| Some(date.to_str().ok()?.to_owned())),
        body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn serve(reply: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a client");
                let mut request = [0; 1024];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(reply.as_bytes());
            }
        });
        port
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn health_needs_a_200() {
        let good = serve(
            "HTTP/1.1 200 OK\r\ncontent-length: 15\r\nconnection: close\r\n\r\n{\"status\":\"ok\"}",
        );
        let body = Api::new(good).health(LONG).expect("healthy");
        assert_eq!(body["status"], "ok");
        let bad = serve("HTTP/1.1 503 No\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy");
        let error = Api::new(bad).health(LONG).expect_err("not healthy");
        assert!(error.to_string().contains("503: busy"), "{error}");
    }

    #[test]
    fn a_closed_port_is_an_error_with_the_address() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let api = Api::new(port);
        let error = api
            .wait_healthy(Instant::now(), Duration::ZERO, LONG)
            .expect_err("nobody there");
        assert!(
            format!("{error:#}").contains(&format!(":{port}")),
            "{error:#}"
        );
    }
}
