//! The strict walk over a run of DHCPv6 options (RFC 8415, section 21.1).
//!
//! The same walk reads the options of a message, of an identity association in it and of an
//! address in that. It never descends by itself: its callers do, to a depth they know. An option
//! that claims more than there is ends the walk, for nothing behind it can be trusted to be an
//! option; what came before stays.

/// No honest message has more; a walk stops there.
const MAX_OPTIONS: usize = 128;

/// The options in `area`, in order: code and value. What cannot be read is added to `malformed`.
pub fn options<'a>(mut area: &'a [u8], malformed: &mut u32) -> Vec<(u16, &'a [u8])> {
    let mut found = Vec::new();
    while !area.is_empty() {
        let Some((code, value, rest)) = option(area).filter(|_| found.len() < MAX_OPTIONS) else {
            *malformed += 1;
            break;
        };
        found.push((code, value));
        area = rest;
    }
    found
}

fn option(area: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (code, rest) = area.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (value, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    Some((u16::from_be_bytes(*code), value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walked(area: &[u8]) -> (Vec<(u16, &[u8])>, u32) {
        let mut malformed = 0;
        (options(area, &mut malformed), malformed)
    }

    #[test]
    fn options_are_read_in_order_and_may_be_empty() {
        assert_eq!(walked(&[]), (vec![], 0));
        assert_eq!(
            walked(&[0, 14, 0, 0, 1, 2, 0, 2, 7, 8]),
            (vec![(14, &[][..]), (0x102, &[7, 8])], 0)
        );
    }

    #[test]
    fn an_option_past_the_end_ends_the_walk_and_keeps_the_rest() {
        for tail in [
            &[0][..],
            &[0, 7],
            &[0, 7, 0],
            &[0, 7, 0, 1],
            &[0, 7, 255, 255, 1],
        ] {
            let area = [&[0, 14, 0, 0], tail].concat();
            assert_eq!(walked(&area), (vec![(14, &[][..])], 1), "{tail:?}");
        }
    }

    #[test]
    fn the_number_of_options_is_bounded() {
        let area = [0, 14, 0, 0].repeat(MAX_OPTIONS);
        assert_eq!(walked(&area).1, 0);
        let area = [0, 14, 0, 0].repeat(MAX_OPTIONS + 1);
        let (found, malformed) = walked(&area);
        assert_eq!((found.len(), malformed), (MAX_OPTIONS, 1));
    }
}
