//! Whether rows that follow each other all say the same, found out for many of them at once.

use arrow_array::OffsetSizeTrait;

/// Whether the spans between `offsets` are equally long.
pub(crate) fn is_even<O: OffsetSizeTrait>(offsets: &[O]) -> bool {
    let length =
        |ends: &[O]| ends[1].to_i64().zip(ends[0].to_i64()).map(|(end, at)| end.wrapping_sub(at));
    let Some(first) = offsets.get(..2).map(length) else { return true };
    // Without a branch for each.
    offsets.windows(2).fold(true, |even, ends| even & (length(ends) == first))
}

/// Whether they are, and hold the same values as well.
pub(crate) fn spans_repeat<O: OffsetSizeTrait, T: PartialEq>(offsets: &[O], values: &[T]) -> bool {
    let &[first, second, .., last] = offsets else { return true };
    let (start, next, end) = (first.as_usize(), second.as_usize(), last.as_usize());
    // What repeats is equal to itself a span later.
    is_even(offsets) && values[start..start + (end - next)] == values[next..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn spans_repeat_where_each_is_the_first(
            first in prop::collection::vec(0u8..2, 0..4),
            others in prop::collection::vec(prop::collection::vec(0u8..2, 0..4), 0..4),
            times in 0usize..4,
            skipped in 0usize..3,
        ) {
            let mut rows = vec![first.clone(); times];
            rows.extend(others);
            let mut values = vec![9; skipped];
            let mut offsets = vec![skipped as i32];
            for row in &rows {
                values.extend(row);
                offsets.push(values.len() as i32);
            }
            let same = |rows: &[Vec<u8>]| rows.windows(2).all(|pair| pair[0] == pair[1]);
            prop_assert_eq!(spans_repeat(&offsets, &values), same(&rows));
            let lengths: Vec<_> = rows.iter().map(|row| vec![0; row.len()]).collect();
            prop_assert_eq!(is_even(&offsets), same(&lengths));
        }
    }
}
