//! How a tensor is cut into tiles, and tiles into tasks.
//!
//! The cuts depend on the tensor's geometry alone, never on threads or batches, so that sums over
//! tiles come out the same everywhere.

use std::ops::Range;

use crate::kernel::tile::{Grouping, TILE_UNIT};
use crate::scheme::Scheme;

/// Elements of a tile: its values, 16-bit ones as they are, and its codes stay in the second-level cache
/// from the moment its ranges are found until it is encoded, and what comes once a tile weighs little. Larger groups
/// take two passes over memory.
pub(crate) const TILE: usize = 1 << 14;

/// Elements of a piece of work: enough to hide the cost of handing it to a thread, little enough to
/// spread a layer over cores.
pub(crate) const PIECE: usize = 1 << 18;

/// A tensor's tiles: blocks of whole rows, or stretches of one long row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiling {
    rows: usize,
    grouping: Grouping,
    tile_rows: usize,
    stretch: usize,
}

/// One tile's place in its tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    /// Its elements, as flat indices.
    pub(crate) elements: Range<usize>,
    /// Elements of each of its rows.
    pub(crate) width: usize,
    /// Elements of its first group that lie before it.
    pub(crate) phase: usize,
    /// All groups that it touches, counted over the tensor.
    pub(crate) groups: Range<usize>,
    /// Its row's number and where in that row it begins.
    row: usize,
    column: usize,
}

impl Tiling {
    pub(crate) fn new(rows: usize, grouping: Grouping) -> Self {
        let columns = grouping.columns;
        if columns <= TILE {
            return Self {
                rows,
                grouping,
                tile_rows: (TILE / columns).min(rows),
                stretch: columns,
            };
        }
        // Stretches hold whole groups, unless a group is too long for that.
        let unit = if grouping.group_size > TILE {
            TILE_UNIT
        } else {
            least_common_multiple(grouping.group_size, TILE_UNIT)
        };
        let stretch = (TILE / unit).max(1) * unit;
        Self { rows, grouping, tile_rows: 1, stretch: stretch.min(columns) }
    }

    fn per_row(&self) -> usize {
        self.grouping.columns.div_ceil(self.stretch)
    }

    /// How many tiles there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.div_ceil(self.tile_rows) * self.per_row()
    }

    /// Whether groups reach over several tiles, so that their ranges must be known beforehand.
    pub(crate) fn has_wide_groups(&self) -> bool {
        self.grouping.group_size > self.stretch
    }

    /// Elements of all tiles but those at the ends.
    fn tile_elements(&self) -> usize {
        self.tile_rows * self.stretch
    }

    pub(crate) fn place(&self, tile: usize) -> Place {
        let Grouping { columns, group_size, .. } = self.grouping;
        let groups = self.grouping.groups();
        let row = tile / self.per_row() * self.tile_rows;
        let column = tile % self.per_row() * self.stretch;
        let rows = self.tile_rows.min(self.rows - row);
        let width = self.stretch.min(columns - column);
        let start = row * columns + column;
        let last = (column + width - 1) / group_size;
        Place {
            elements: start..start + rows * width,
            width,
            phase: column % group_size,
            groups: row * groups + column / group_size..(row + rows - 1) * groups + last + 1,
            row,
            column,
        }
    }

    /// The tile's bytes in the tensor's packed `data`.
    pub(crate) fn data(&self, scheme: &dyn Scheme, place: &Place) -> Range<usize> {
        let row_bytes = scheme.row_layout(&self.grouping).data;
        let end = place.column + place.width;
        if place.width == self.grouping.columns {
            let rows = place.elements.len() / place.width;
            return place.row * row_bytes..(place.row + rows) * row_bytes;
        }
        let end = if end == self.grouping.columns { row_bytes } else { scheme.stretch_bytes(end) };
        place.row * row_bytes + scheme.stretch_bytes(place.column)..place.row * row_bytes + end
    }

    /// The tiles of each piece of work.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (count, step) = (self.len(), (PIECE / self.tile_elements()).max(1));
        (0..count).step_by(step).map(move |start| start..(start + step).min(count))
    }
}

impl Place {
    /// All of a tensor that is small enough for one tile.
    pub(crate) fn whole(rows: usize, grouping: &Grouping) -> Option<Self> {
        let Grouping { columns, .. } = *grouping;
        (rows * columns <= TILE).then(|| Self {
            elements: 0..rows * columns,
            width: columns,
            phase: 0,
            groups: 0..rows * grouping.groups(),
            row: 0,
            column: 0,
        })
    }

    /// The groups whose scales belong to this tile: those that begin in it.
    pub(crate) fn own_groups(&self) -> Range<usize> {
        self.groups.start + usize::from(self.phase > 0)..self.groups.end
    }
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

/// Put items together until each task has a piece's worth of `elements`.
pub(crate) fn into_tasks<T>(
    items: impl IntoIterator<Item = T>,
    elements: impl Fn(&T) -> usize,
) -> Vec<Vec<T>> {
    let mut tasks = Vec::new();
    let (mut task, mut filled) = (Vec::new(), 0);
    for item in items {
        filled += elements(&item);
        task.push(item);
        if filled >= PIECE || task.len() >= PIECE / 64 {
            tasks.push(std::mem::take(&mut task));
            filled = 0;
        }
    }
    if !task.is_empty() {
        tasks.push(task);
    }
    tasks
}

/// Cuts consecutive pieces off a buffer, so that threads write into it side by side.
pub(crate) struct Carver<'a, T> {
    rest: &'a mut [T],
    at: usize,
}

impl<'a, T> Carver<'a, T> {
    pub(crate) fn new(buffer: &'a mut [T]) -> Self {
        Self { rest: buffer, at: 0 }
    }

    /// The part of the buffer at `range`; ranges must come in rising order.
    pub(crate) fn take(&mut self, range: Range<usize>) -> &'a mut [T] {
        if range.is_empty() {
            return &mut [];
        }
        let rest = std::mem::take(&mut self.rest);
        let (_, rest) = rest.split_at_mut(range.start - self.at);
        let (piece, rest) = rest.split_at_mut(range.len());
        (self.rest, self.at) = (rest, range.end);
        piece
    }

    /// All that is left.
    pub(crate) fn all(&mut self) -> &mut [T] {
        self.rest
    }

    /// The part of the buffer at `range`, to be cut further with ranges of the whole buffer.
    pub(crate) fn split(&mut self, range: Range<usize>) -> Self {
        let at = range.start;
        Self { rest: self.take(range), at }
    }

    /// [`Carver::take`], but nothing of an empty buffer: there may be no zero points at all.
    pub(crate) fn take_if_any(&mut self, range: Range<usize>) -> &'a mut [T] {
        if self.rest.is_empty() { &mut [] } else { self.take(range) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::ScaleDtype;
    use crate::scheme::{self, Choice};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn tiles_cover_a_tensor_once_and_in_order(
            rows in 1usize..40,
            columns in prop_oneof![1usize..300, 16_000usize..70_000],
            group_size in prop_oneof![1usize..300, 10_000usize..80_000],
            name in prop::sample::select(vec!["int8", "int4", "int2"]),
        ) {
            let group_size = group_size.min(columns);
            let scale_dtype = ScaleDtype::F32;
            let grouping = Grouping { columns, group_size, symmetric: false, scale_dtype };
            let Ok(Choice::Encode(scheme)) = scheme::find(name) else { unreachable!() };
            let tiling = Tiling::new(rows, grouping);
            let (mut elements, mut bytes, mut groups) = (0, 0, 0);
            for tile in tiling.pieces().flatten() {
                let place = tiling.place(tile);
                let data = tiling.data(scheme, &place);
                prop_assert_eq!((place.elements.start, data.start), (elements, bytes));
                prop_assert_eq!(place.own_groups().start, groups);
                prop_assert!(tiling.has_wide_groups() || place.phase == 0);
                (elements, bytes, groups) = (place.elements.end, data.end, place.groups.end);
            }
            prop_assert_eq!(elements, rows * columns);
            prop_assert_eq!(bytes, rows * scheme.row_layout(&grouping).data);
            prop_assert_eq!(groups, rows * grouping.groups());
        }
    }
}
