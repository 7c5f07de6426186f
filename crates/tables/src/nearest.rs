/// The name most like `wrong`, if any is like it at all: at most a third of its letters, and no
/// more than three and not all of them, inserted, left out, changed or swapped with their neighbour.
///
/// Upper and lower case and `-` and `_` count as the same. Of equals, the first.
pub fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = fold(wrong);
    let allowed = (wrong.len() / 3).clamp(1, 3).min(wrong.len().saturating_sub(1));
    let scored = names.into_iter().filter(|name| name.len() <= 256).map(|name| {
        let folded = fold(name);
        (distance(&wrong, &folded), name)
    });
    let best = scored.filter(|(far, _)| *far <= allowed).min_by_key(|(far, _)| *far);
    best.map(|(_, name)| name)
}

/// The longest name worth comparing, so that a hostile file costs little.
const LETTERS_MAX: usize = 64;

fn fold(name: &str) -> Vec<char> {
    let folded = name.chars().take(LETTERS_MAX).map(|char| match char {
        '-' => '_',
        char => char.to_lowercase().next().unwrap_or(char),
    });
    folded.collect()
}

/// Optimal string alignment distance.
fn distance(a: &[char], b: &[char]) -> usize {
    let width = b.len() + 1;
    let mut table = vec![0; (a.len() + 1) * width];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            let at = i * width + j;
            if i == 0 || j == 0 {
                table[at] = i + j;
                continue;
            }
            let change = table[at - width - 1] + usize::from(a[i - 1] != b[j - 1]);
            table[at] = change.min(table[at - width] + 1).min(table[at - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                table[at] = table[at].min(table[at - 2 * width - 2] + 1);
            }
        }
    }
    table[a.len() * width + b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_recognised_and_strangers_are_not() {
        let names = ["workers", "listen", "roles", "reply_wait", "web"];
        let near = |wrong| nearest(wrong, names);
        assert_eq!(near("wokers"), Some("workers"));
        assert_eq!(near("Listen"), Some("listen"));
        assert_eq!(near("reply-wait"), Some("reply_wait"));
        assert_eq!(near("rolse"), Some("roles"));
        assert_eq!(near("wbe"), Some("web"));
        assert_eq!(near("x"), None);
        assert_eq!(near("timeout"), None);
        assert_eq!(nearest("", ["a"]), None);
        assert_eq!(nearest(&"x".repeat(100_000), names), None);
    }
}
