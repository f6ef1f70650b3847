//! How a tensor is cut into tiles, and tiles into tasks.
//!
//! The cuts depend on the tensor's geometry alone, never on threads or batches, so that sums over
//! tiles come out the same everywhere.

use std::ops::Range;

use crate::kernel::tile::{Grouping, TILE_UNIT};
use crate::scheme::Layout;

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
    layout: Layout,
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
    /// All groups that it touches, counted over the tensor as if no two rows shared one.
    pub(crate) groups: Range<usize>,
    /// Its row's number and where in that row it begins.
    pub(crate) row: usize,
    pub(crate) column: usize,
    /// Elements of the tensor's rows.
    pub(crate) columns: usize,
}

impl Tiling {
    /// The tiles of a matrix that is encoded so.
    pub(crate) fn new(layout: &Layout) -> Self {
        Self::with_unit(layout, 1)
    }

    /// The same where stretches must also begin at multiples of `unit` elements, or they could not be
    /// read.
    pub(crate) fn with_unit(layout: &Layout, unit: usize) -> Self {
        let Grouping { columns, group_size, .. } = layout.grouping;
        if columns <= TILE {
            let tile_rows = (TILE / columns).min(layout.rows);
            return Self { layout: *layout, tile_rows, stretch: columns };
        }
        // Stretches hold whole groups, unless a group is too long for that.
        let unit = least_common_multiple(unit, least_common_multiple(TILE_UNIT, layout.unit()));
        let unit = if group_size > TILE { unit } else { least_common_multiple(group_size, unit) };
        let stretch = (TILE / unit).max(1) * unit;
        Self { layout: *layout, tile_rows: 1, stretch: stretch.min(columns) }
    }

    /// The same where every stretch must hold whole groups, however long they are.
    pub(crate) fn of_whole_groups(layout: &Layout, unit: usize) -> Self {
        let tiling = Self::with_unit(layout, unit);
        let Grouping { columns, group_size, .. } = layout.grouping;
        if group_size <= tiling.stretch {
            return tiling;
        }
        let unit = least_common_multiple(unit, least_common_multiple(TILE_UNIT, layout.unit()));
        let stretch = least_common_multiple(group_size, unit).min(columns);
        Self { stretch, ..tiling }
    }

    fn per_row(&self) -> usize {
        self.layout.grouping.columns.div_ceil(self.stretch)
    }

    /// How many tiles there are.
    pub(crate) fn len(&self) -> usize {
        self.layout.rows.div_ceil(self.tile_rows) * self.per_row()
    }

    /// Whether groups reach over several tiles, so that their bounds must be known beforehand.
    pub(crate) fn has_wide_groups(&self) -> bool {
        self.layout.grouping.group_size > self.stretch || self.layout.needs_whole()
    }

    /// The tiles that hold some of these elements.
    pub(crate) fn across(&self, elements: &Range<usize>) -> Range<usize> {
        let columns = self.layout.grouping.columns;
        let tile = |element: usize| {
            element / columns / self.tile_rows * self.per_row() + element % columns / self.stretch
        };
        tile(elements.start)..tile(elements.end.max(1) - 1) + 1
    }

    /// Elements of all tiles but those at the ends.
    fn tile_elements(&self) -> usize {
        self.tile_rows * self.stretch
    }

    pub(crate) fn place(&self, tile: usize) -> Place {
        let columns = self.layout.grouping.columns;
        let row = tile / self.per_row() * self.tile_rows;
        let column = tile % self.per_row() * self.stretch;
        let rows = self.tile_rows.min(self.layout.rows - row);
        let width = self.stretch.min(columns - column);
        Place::new(&self.layout.grouping, row, rows, column, width)
    }

    /// The tiles of each piece of work.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (count, step) = (self.len(), (PIECE / self.tile_elements()).max(1));
        (0..count).step_by(step).map(move |start| start..(start + step).min(count))
    }
}

impl Place {
    /// A number of rows, or where `width` is less than a row, a stretch of one.
    pub(crate) fn new(
        grouping: &Grouping,
        row: usize,
        rows: usize,
        column: usize,
        width: usize,
    ) -> Self {
        let Grouping { columns, group_size, .. } = *grouping;
        let groups = grouping.groups();
        let start = row * columns + column;
        let last = (column + width - 1) / group_size;
        Self {
            elements: start..start + rows * width,
            width,
            phase: column % group_size,
            groups: row * groups + column / group_size..(row + rows - 1) * groups + last + 1,
            row,
            column,
            columns,
        }
    }

    /// All of a tensor that is small enough for one tile, and whose rows share no scale.
    pub(crate) fn whole(layout: &Layout) -> Option<Self> {
        let Layout { rows, grouping, .. } = layout;
        let is_tile = rows * grouping.columns <= TILE && !layout.needs_whole();
        is_tile.then(|| Self::new(grouping, 0, *rows, 0, grouping.columns))
    }

    /// The same place in a matrix that is grouped in another way.
    pub(crate) fn within(&self, grouping: &Grouping) -> Self {
        Self::new(grouping, self.row, self.rows(), self.column, self.width)
    }

    fn rows(&self) -> usize {
        self.elements.len() / self.width
    }

    /// The tile's bytes in the tensor's packed `data`.
    pub(crate) fn data(&self, layout: &Layout) -> Range<usize> {
        let (columns, row_bytes) = (layout.grouping.columns, layout.row_bytes);
        let end = self.column + self.width;
        if self.width == columns {
            return self.row * row_bytes..(self.row + self.rows()) * row_bytes;
        }
        let end = if end == columns { row_bytes } else { layout.stretch_bytes(end) };
        self.row * row_bytes + layout.stretch_bytes(self.column)..self.row * row_bytes + end
    }

    /// The groups whose scales belong to this tile: those that begin in it.
    pub(crate) fn own_groups(&self) -> Range<usize> {
        self.groups.start + usize::from(self.phase > 0)..self.groups.end
    }

    /// Where the scales of all groups that it touches are among the tensor's, row after row.
    pub(crate) fn parameters(&self, layout: &Layout) -> impl Iterator<Item = Range<usize>> + use<> {
        let (groups, group_rows) = (layout.grouping.groups(), layout.group_rows);
        let rows = self.rows();
        // Where no row shares its scales with another, all of them follow each other.
        let (count, each) = if group_rows == 1 {
            (1, self.groups.len())
        } else {
            (rows, self.groups.len() - (rows - 1) * groups)
        };
        let (row, first) = (self.row, self.groups.start - self.row * groups);
        (row..row + count).map(move |row| {
            let start = row / group_rows * groups + first;
            start..start + each
        })
    }
}

/// The least number that both divide; the largest there is where it is beyond that.
pub(crate) fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x).saturating_mul(b)
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
    use crate::dtype::Float;
    use crate::scheme::{self, Choice, Geometry};
    use crate::settings::{GROUP_SIZE, Settings, Value};
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
            let Ok(Choice::Encode(scheme)) = scheme::find(name) else { unreachable!() };
            let settings = Settings::default().with(GROUP_SIZE, Value::Integer(group_size as i64));
            let geometry = Geometry { rows, columns, source: Float::F32 };
            let layout = scheme.bind(&geometry, &settings).unwrap().layout;
            let tiling = Tiling::new(&layout);
            let (mut elements, mut bytes, mut groups) = (0, 0, 0);
            for tile in tiling.pieces().flatten() {
                let place = tiling.place(tile);
                let data = place.data(&layout);
                prop_assert_eq!((place.elements.start, data.start), (elements, bytes));
                prop_assert_eq!(place.own_groups().start, groups);
                prop_assert!(tiling.has_wide_groups() || place.phase == 0);
                (elements, bytes, groups) = (place.elements.end, data.end, place.groups.end);
            }
            prop_assert_eq!(elements, rows * columns);
            prop_assert_eq!(Some(bytes), layout.data_bytes());
            prop_assert_eq!(Some(groups), layout.scale_count());
        }
    }
}
