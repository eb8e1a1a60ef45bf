//! What differs between two texts, in lines.

/// How many equal lines are shown around a difference.
const AROUND: usize = 2;
/// Up to how many pairs of lines are compared; beyond, all old lines are shown as gone and all new ones as come.
const LARGEST: usize = 4_000_000;

/// One line of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line<'a> {
    Same(&'a str),
    Gone(&'a str),
    Come(&'a str),
}

/// The lines that differ, each with `-` or `+` before it, and a few of those around them.
pub(crate) fn diff(old: &str, new: &str) -> Vec<String> {
    let lines = compare(&old.lines().collect::<Vec<_>>(), &new.lines().collect::<Vec<_>>());
    let changed: Vec<usize> =
        (0..lines.len()).filter(|index| !matches!(lines[*index], Line::Same(_))).collect();
    let mut shown = Vec::new();
    let mut last = None;
    for (index, line) in lines.iter().enumerate() {
        let next = changed.partition_point(|at| at + AROUND < index);
        if changed.get(next).is_none_or(|at| *at > index + AROUND) {
            continue;
        }
        if last.is_some_and(|last| last + 1 < index) {
            shown.push("  …".to_owned());
        }
        last = Some(index);
        shown.push(match line {
            Line::Same(text) => format!("  {text}"),
            Line::Gone(text) => format!("- {text}"),
            Line::Come(text) => format!("+ {text}"),
        });
    }
    shown
}

/// The longest common run of lines, and what stands between.
fn compare<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let head = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let (old_rest, new_rest) = (&old[head..], &new[head..]);
    let tail = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(old, new)| old == new).count();
    let (left, right) = (&old_rest[..old_rest.len() - tail], &new_rest[..new_rest.len() - tail]);

    let mut lines: Vec<Line<'a>> = old[..head].iter().map(|line| Line::Same(line)).collect();
    let width = right.len() + 1;
    let small = left.len().saturating_mul(right.len()) <= LARGEST;
    // `common[i * width + j]` is the length of the longest common run of what follows `i` and `j`.
    let mut common = vec![0_u32; if small { (left.len() + 1) * width } else { 0 }];
    if small {
        for i in (0..left.len()).rev() {
            for j in (0..right.len()).rev() {
                common[i * width + j] = if left[i] == right[j] {
                    common[(i + 1) * width + j + 1] + 1
                } else {
                    common[(i + 1) * width + j].max(common[i * width + j + 1])
                };
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < left.len() || j < right.len() {
        let both = i < left.len() && j < right.len();
        if both && small && left[i] == right[j] {
            lines.push(Line::Same(left[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < left.len()
            && (!both || !small || common[(i + 1) * width + j] >= common[i * width + j + 1])
        {
            lines.push(Line::Gone(left[i]));
            i += 1;
        } else {
            lines.push(Line::Come(right[j]));
            j += 1;
        }
    }
    lines.extend(old[old.len() - tail..].iter().map(|line| Line::Same(line)));
    lines
}

#[cfg(test)]
mod tests {
    use super::diff;

    #[test]
    fn only_what_changed_and_its_neighbours_are_shown() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9";
        let new = "1\n2\n3\n4\nfive\n6\n7\n8\n9\n10";
        assert_eq!(diff(old, new), ["  3", "  4", "- 5", "+ five", "  6", "  7", "  8", "  9", "+ 10"]);
        assert!(diff(old, old).is_empty());
        assert_eq!(diff("", "a"), ["+ a"]);
        let far = diff("a\n1\n2\n3\n4\n5\n6\nb", "A\n1\n2\n3\n4\n5\n6\nB");
        assert_eq!(far, ["- a", "+ A", "  1", "  2", "  …", "  5", "  6", "- b", "+ B"]);
    }
}
