//! URLs as far as an update needs them (RFC 3986; RFC 9110, section 4.2).

use std::fmt;

/// Bytes of a URL.
const LEN_MAX: usize = 2048;

/// An http or https URL without a query: the files of a version are beside each other in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    /// Whether it is https.
    pub(super) secure: bool,
    /// Host, in brackets if it is an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    /// The path and, of a redirection, the query; starts with `/`.
    pub(super) path: String,
}

impl Url {
    /// Reads a URL. Only one that a server redirects to may have a query: storage servers sign those.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("{text:?}: {what}"));
        if text.len() > LEN_MAX || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return wrong("a URL is at most 2048 characters, no spaces among them");
        }
        let (secure, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return wrong("not an http or https URL"),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
        if authority.contains('@') {
            return wrong("a URL with a user name; such are not sent");
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let v6 = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let good = match v6 {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty()
                    && host
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
            }
        };
        if !good {
            return wrong("no host that can be reached is named");
        }
        let port = match port {
            None | Some("") => Some(if secure { 443 } else { 80 }),
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port != 0)
            }
            Some(_) => None,
        };
        let Some(port) = port else {
            return wrong("the port is no number from 1 to 65535");
        };
        Ok(Self {
            secure,
            host: host.to_ascii_lowercase(),
            port,
            path: if path.starts_with('/') {
                path.to_owned()
            } else {
                format!("/{path}")
            },
        })
    }

    /// Where a server sends us from here (RFC 9110, section 10.2.2).
    ///
    /// # Errors
    /// If it is no URL, or one that is less secure than this.
    pub(super) fn follow(&self, location: &str) -> Result<Self, String> {
        let target = if location.contains("://") {
            Self::parse(location)?
        } else if location.starts_with("//") {
            let scheme = if self.secure { "https:" } else { "http:" };
            Self::parse(&format!("{scheme}{location}"))?
        } else if location.starts_with('/') {
            Self::parse(&format!("{}{location}", self.origin()))?
        } else {
            Self::parse(&format!("{}{}{location}", self.origin(), self.folder()))?
        };
        if self.secure && !target.secure {
            return Err(format!("{target}: from https to http is not followed"));
        }
        Ok(target)
    }

    /// A file beside this one. All but the unreserved characters are encoded (RFC 3986, section 2.3): some servers
    /// take a plain `+` for a space.
    pub(super) fn beside(&self, name: &str) -> Self {
        let mut path = self.folder().to_owned();
        for byte in name.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                path.push(char::from(byte));
            } else {
                path.push_str(&format!("%{byte:02X}"));
            }
        }
        Self {
            path,
            ..self.clone()
        }
    }

    /// The path up to its last `/`, which is kept.
    fn folder(&self) -> &str {
        let path = self.path.split('?').next().unwrap_or_default();
        path.rfind('/')
            .and_then(|end| path.get(..=end))
            .unwrap_or("/")
    }

    /// The last part of the path.
    pub(super) fn file(&self) -> &str {
        let path = self.path.split('?').next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }

    /// Host and port, the latter if it is not the usual one: the value of `Host` (RFC 9110, section 7.2).
    pub(super) fn authority(&self) -> String {
        if self.port == if self.secure { 443 } else { 80 } {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The host without brackets.
    pub(super) fn bare_host(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    fn origin(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }
}

impl fmt::Display for Url {
    /// Without the query, which may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "{}{path}", self.origin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_are_read_and_files_found_beside() {
        let url = Url::parse("https://Example.org:8443/os/stable/update.json").unwrap();
        assert_eq!(
            url.to_string(),
            "https://example.org:8443/os/stable/update.json"
        );
        assert_eq!(
            (url.authority().as_str(), url.file()),
            ("example.org:8443", "update.json")
        );
        assert_eq!(url.beside("a_1+3-0.efi").path, "/os/stable/a_1%2B3-0.efi");
        assert_eq!(url.beside("a/../b%").path, "/os/stable/a%2F..%2Fb%25");
        let plain = Url::parse("http://10.0.2.2").unwrap();
        assert_eq!((plain.path.as_str(), plain.port), ("/", 80));
        let six = Url::parse("http://[fd00::1]:8000/x").unwrap();
        assert_eq!(
            (six.bare_host(), six.authority().as_str()),
            ("fd00::1", "[fd00::1]:8000")
        );
        for wrong in [
            "http://",
            "http:///x",
            "http://u:p@h/x",
            "http://h:0/",
            "http://h:99999/",
            "http://h:+1/",
            "http://[::g]/",
            "gopher://h/",
            "http://h/ x",
            "h/x",
            "http://a[::1]/",
            "http://[::1]b/",
        ] {
            assert!(Url::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_redirection_is_followed_but_not_to_less_security() {
        let from = Url::parse("https://h/a/b?c").unwrap();
        let to = |location| from.follow(location).map(|url| (url.to_string(), url.path));
        assert_eq!(to("/x?s=1"), Ok(("https://h/x".into(), "/x?s=1".into())));
        assert_eq!(to("x"), Ok(("https://h/a/x".into(), "/a/x".into())));
        assert_eq!(
            to("//other:1/y"),
            Ok(("https://other:1/y".into(), "/y".into()))
        );
        assert_eq!(to("https://o/z#f"), Ok(("https://o/z".into(), "/z".into())));
        assert!(to("http://h/a").unwrap_err().contains("not followed"));
        assert!(to("file:///etc").is_err());
        assert!(
            Url::parse("http://h/")
                .unwrap()
                .follow("https://h/")
                .is_ok()
        );
    }

    proptest! {
        #[test]
        fn a_request_line_never_breaks(text in "[ -~\r\n]{0,40}", name in "[ -~\r\né]{0,20}") {
            for url in [Url::parse(&format!("http://h/{text}")), Url::parse(&text)].into_iter().flatten() {
                let whole = format!("{}{}{}", url.path, url.authority(), url.beside(&name).path);
                prop_assert!(whole.bytes().all(|b| b.is_ascii_graphic()));
                prop_assert!(url.path.starts_with('/') && !url.authority().contains('/'));
                if let Ok(to) = url.follow(&text) {
                    prop_assert!(to.path.bytes().all(|b| b.is_ascii_graphic()));
                }
            }
        }
    }
}
