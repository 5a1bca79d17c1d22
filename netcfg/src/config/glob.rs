//! Shell-like patterns for names of links.

/// Whether `text` fits `pattern`, in which `*` stands for any characters and `?` for one. Takes
/// time in proportion to pattern times text, whatever they are.
pub fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // After a `*`: where the pattern goes on, and how much text the star has taken.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || Some(byte) == text.get(t) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((after, taken)) => {
                    star = Some((after, taken + 1));
                    p = after;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern
        .get(p..)
        .is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("eth*", "eth0", true),
            ("eth*", "eth", true),
            ("eth?", "eth0", true),
            ("eth?", "eth10", false),
            ("e*0", "enp0s10", true),
            ("e*1", "enp0s10", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("*a*b*c", "xxaxxbxxcxbc", true),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }
}
