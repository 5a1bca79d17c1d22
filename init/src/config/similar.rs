//! The word that somebody meant who mistyped another.

/// The known word that is nearest to `word`, if it is near: a third of its letters may differ.
#[must_use]
pub fn similar<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = known.iter().map(|k| (distance(word, k), *k)).min()?;
    (near.0 * 3 <= word.chars().count().max(3)).then_some(near.1)
}

/// How many letters must be put in, taken out, exchanged or swapped with their neighbour to make one word of
/// the other (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut above: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    let mut before_a = None;
    for (i, ca) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX / 2);
            let exchanged = at(&row, j) + usize::from(ca != cb);
            let mut least = exchanged.min(at(&row, j + 1) + 1).min(at(&next, j) + 1);
            let before_b = j.checked_sub(1).and_then(|k| b.get(k));
            if before_a == Some(cb) && before_b == Some(ca) {
                least = least.min(at(&above, j.saturating_sub(1)) + 1);
            }
            next.push(least);
        }
        above = std::mem::replace(&mut row, next);
        before_a = Some(ca);
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_understood_and_another_word_is_not() {
        let known = ["exec", "restart", "required", "requires", "user"];
        for (word, meant) in [
            ("restrat", Some("restart")),
            ("exce", Some("exec")),
            ("usr", Some("user")),
            ("require", Some("required")),
            ("image", None),
            ("", None),
        ] {
            assert_eq!(similar(word, &known), meant, "{word}");
        }
        assert_eq!(similar("x", &[]), None);
    }

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("abc", "acb", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
