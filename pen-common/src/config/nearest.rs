//! Finds the word that somebody probably meant.

/// Words further away than this are no help.
const EDITS_MAX: usize = 2;

/// The candidate nearest to `word`: the fewest edits, at most two, and fewer than it has letters;
/// failing that, the only candidate that begins with it.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Nothing in Pen's language is longer, and hostile input shall not cost a quadratic look-up.
    if word.is_empty() || word.len() > 64 {
        return None;
    }
    let candidates: Vec<&str> = candidates.into_iter().collect();
    let by_edits = candidates
        .iter()
        .map(|candidate| (edits(word, candidate), *candidate))
        .filter(|(edits, candidate)| {
            *edits <= EDITS_MAX && *edits < word.chars().count().min(candidate.len())
        })
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate);
    by_edits.or_else(|| {
        let mut longer = candidates
            .iter()
            .filter(|candidate| candidate.starts_with(word));
        longer.next().filter(|_| longer.next().is_none()).copied()
    })
}

/// `; did you mean `x`?` or nothing, to be put at the end of a message.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map_or_else(String::new, |found| format!("; did you mean `{found}`?"))
}

/// The message for a value that must be one of a few words.
pub(crate) fn not_one_of(text: &str, words: &[&str]) -> String {
    let hint = did_you_mean(text, words.iter().copied());
    format!("{text:?} is none of {}{hint}", words.join(", "))
}

/// Edit distance over insertion, deletion, replacement and the swap of two neighbours.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("weight", "weight", 0),
            ("wieght", "weight", 1),
            ("weigth", "weight", 1),
            ("weght", "weight", 1),
            ("", "abc", 3),
            ("server", "servers", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edits(a, b), expected, "{a} {b}");
            assert_eq!(edits(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn suggestions() {
        let words = ["weight", "status", "servers", "server"];
        assert_eq!(nearest("wieght", words), Some("weight"));
        assert_eq!(nearest("stat", words), Some("status"));
        assert_eq!(nearest("servre", words), Some("server"));
        assert_eq!(nearest("serv", words), Some("server"));
        assert_eq!(nearest("xyz", words), None);
        assert_eq!(nearest("a", ["b"]), None);
        assert_eq!(nearest("", words), None);
        assert_eq!(nearest(&"w".repeat(65), words), None);
    }
}
