//! Groups side by side as they are searched, sixteen or fewer: a lane has one of them, a long one has several
//! lanes, and so has a block of several parts.

use std::cell::Cell;

use super::importance::Importance;
use crate::lanes::{EXPONENT, LANES, Lanes};

/// A number for each lane.
pub(crate) type Each = [f32; LANES];

/// Two int16 for each lane.
pub(super) type Pairs = [u32; LANES];

/// Values of a lane at most, of groups that need not be divided.
const LONGEST: usize = 512;

/// Lanes among which a group of so many values is divided: a power of two. It depends on nothing else, so
/// that a group is summed up in the same order beside any others.
pub(crate) fn lanes_of(length: usize) -> usize {
    length.div_ceil(LONGEST).next_power_of_two().min(LANES)
}

/// Room to search in.
#[derive(Debug, Default)]
pub struct Room {
    values: Vec<Each>,
    weights: Vec<Each>,
    /// How much values matter, in their own order.
    own: Vec<f32>,
    pairs: Vec<Cell<Pairs>>,
}

/// What lanes have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shared {
    /// A group is divided among so many lanes.
    Group(usize),
    /// A block of so many parts has a lane for each. Their squared errors are added up.
    Block(usize),
}

impl Shared {
    fn lanes(self) -> usize {
        match self {
            Self::Group(lanes) | Self::Block(lanes) => lanes,
        }
    }
}

/// The values that lanes get.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// Of all groups, one behind the other.
    values: &'a [f32],
    /// Where they begin in their tile.
    start: usize,
    /// Each lane's.
    spans: [(usize, usize); LANES],
    /// The largest magnitude of each lane's group or block.
    absmax: Each,
    /// The same of its part of a block.
    part_absmax: Each,
    shared: Shared,
}

impl<'a> Rows<'a> {
    /// Those of groups from one place to another each, of these largest magnitudes, and of which each has as
    /// many lanes.
    #[inline(always)]
    pub(crate) fn of_groups(
        (values, start): (&'a [f32], usize),
        groups: &[(usize, usize)],
        absmax: &[f32],
        lanes: usize,
    ) -> Self {
        let mut rows = Self::nowhere(values, start, Shared::Group(lanes));
        for (at, (&(begin, end), most)) in groups.iter().zip(absmax).enumerate() {
            let step = (end - begin).div_ceil(lanes).next_multiple_of(LANES);
            for piece in 0..lanes {
                let from = (begin + piece * step).min(end);
                rows.spans[at * lanes + piece] = (from, (from + step).min(end));
                rows.absmax[at * lanes + piece] = *most;
                rows.part_absmax[at * lanes + piece] = *most;
            }
        }
        rows.fill(groups.len() * lanes)
    }

    /// Those of blocks of as many parts of `part` values, each of these largest magnitudes.
    #[inline(always)]
    pub(crate) fn of_blocks(
        (values, start): (&'a [f32], usize),
        (part, parts): (usize, usize),
        absmax: impl Iterator<Item = f32>,
    ) -> Self {
        let mut rows = Self::nowhere(values, start, Shared::Block(parts));
        for (own, absmax) in rows.part_absmax.iter_mut().zip(absmax) {
            *own = absmax;
        }
        let lanes = values.len() / part;
        let blocks = rows.part_absmax.chunks_exact(parts).zip(rows.absmax.chunks_exact_mut(parts));
        for (own, absmax) in blocks {
            absmax.fill(own.iter().fold(0.0, |most, one| most.max(*one)));
        }
        for (lane, span) in rows.spans[..lanes].iter_mut().enumerate() {
            *span = (lane * part, (lane + 1) * part);
        }
        rows.fill(lanes)
    }

    #[inline(always)]
    fn nowhere(values: &'a [f32], start: usize, shared: Shared) -> Self {
        let none = [0.0; LANES];
        Self { values, start, spans: [(0, 0); LANES], absmax: none, part_absmax: none, shared }
    }

    /// Lanes from this one on are unused. They point at the first lane's values, so that all lanes have equal
    /// lengths. Their largest magnitude is zero, which makes these values zero.
    #[inline(always)]
    fn fill(mut self, from: usize) -> Self {
        for lane in from..LANES {
            self.spans[lane] = self.spans[0];
        }
        self
    }
}

/// Groups side by side: their values over a power of two, the largest magnitude from 1 to 2, and zeros
/// behind the last.
#[derive(Clone, Copy)]
pub(crate) struct Units<'a, L: Lanes> {
    pub(crate) values: &'a [Each],
    /// How much each matters; empty where all matter alike. Those behind the last do not.
    pub(crate) weights: &'a [Each],
    /// The powers of two, and one over them; zero where there is nothing to search: of groups of zeros, and
    /// of magnitudes that have no such power.
    powers: L::F32,
    inverses: L::F32,
    /// The largest magnitudes of lanes over the powers, or larger ones of the group that they are of.
    pub(super) absmax: L::F32,
    shared: Shared,
    /// Room for the values as int16; none where they are weighed.
    pub(super) pairs: &'a [Cell<Pairs>],
    lanes: L,
}

impl<'a, L: Lanes> Units<'a, L> {
    #[inline(always)]
    pub(crate) fn new(
        lanes: L,
        rows: &Rows<'_>,
        importance: &Importance<'_>,
        room: &'a mut Room,
    ) -> Self {
        let (zero, one) = (lanes.splat(0.0), lanes.splat(1.0));
        let power = lanes.power_of_two(lanes.load(&rows.absmax));
        // Of the largest magnitudes it is subnormal.
        let inverses = lanes.if_above(power, zero, lanes.div(one, power), zero);
        let powers = lanes.if_above(inverses, zero, power, one);
        let Room { values, weights, own, pairs } = room;
        let longest = rows.spans.iter().fold(0, |most: usize, span| most.max(span.1 - span.0));
        let depth = longest.next_multiple_of(LANES);
        if values.len() < depth {
            values.resize(depth, [0.0; LANES]);
        }
        let values = &mut values[..depth];
        transpose(lanes, rows.values, &rows.spans, Some(inverses), values);
        let own = importance.weights(rows.values, rows.start, own);
        let mut depth = if own.is_empty() { 0 } else { depth };
        if weights.len() < depth {
            weights.resize(depth, [0.0; LANES]);
        }
        if depth > 0 {
            transpose(lanes, own, &rows.spans, None, &mut weights[..depth]);
            if !normalize(lanes, rows, &mut weights[..depth]) {
                depth = 0;
            }
        }
        let weights = &weights[..depth];
        let half = if weights.is_empty() { values.len() / 2 } else { 0 };
        if pairs.len() < half {
            pairs.resize(half, Cell::new([0; LANES]));
        }
        let pairs = &pairs[..half];
        let absmax = lanes.mul(lanes.load(&rows.part_absmax), inverses);
        let shared = rows.shared;
        Self { values, weights, powers, inverses, absmax, shared, pairs, lanes }
    }

    /// Numbers over the powers.
    #[inline(always)]
    pub(crate) fn over(&self, numbers: L::F32) -> L::F32 {
        self.lanes.mul(numbers, self.inverses)
    }

    /// Numbers times the powers.
    #[inline(always)]
    pub(crate) fn times(&self, numbers: L::F32) -> L::F32 {
        self.lanes.mul(numbers, self.powers)
    }

    /// `better` where there is something to search and `gains` are above zero, else `usual`.
    #[inline(always)]
    pub(crate) fn choose(&self, gains: L::F32, better: L::F32, usual: L::F32) -> L::F32 {
        let (lanes, zero) = (self.lanes, self.lanes.splat(0.0));
        let better = lanes.if_above(gains, zero, better, usual);
        lanes.if_above(self.inverses, zero, better, usual)
    }

    /// Lanes that each group has.
    #[inline(always)]
    pub(crate) fn lanes_each(&self) -> usize {
        match self.shared {
            Shared::Group(lanes) => lanes,
            Shared::Block(_) => 1,
        }
    }

    /// Of sums over lanes, those over groups.
    #[inline(always)]
    pub(super) fn fold(&self, sums: L::F32) -> L::F32 {
        match self.lanes_each() {
            1 => sums,
            lanes => sum_over(self.lanes, sums, lanes),
        }
    }

    /// The smallest and the largest values over the powers, of groups in one lane each.
    #[inline(always)]
    pub(crate) fn ends(&self) -> [L::F32; 2] {
        let lanes = self.lanes;
        let (mut low, mut high) = (lanes.splat(f32::MAX), lanes.splat(f32::MIN));
        for values in self.values {
            let values = lanes.load(values);
            (low, high) = (lanes.min(values, low), lanes.larger(values, high));
        }
        // Of two zeros it makes no difference which; without a sign it is the same for all CPUs.
        [lanes.add(low, lanes.splat(0.0)), lanes.add(high, lanes.splat(0.0))]
    }

    /// The sums of values less `origins`, and of their weights; the number of values where all matter
    /// alike. For groups of equal length in whole vectors, with nothing behind the last value.
    #[inline(always)]
    pub(crate) fn totals(&self, origins: L::F32) -> Totals<L> {
        match self.weights.is_empty() {
            true => totals::<L, false>(self.lanes, self, origins),
            false => totals::<L, true>(self.lanes, self, origins),
        }
    }

    /// Values with their weights, as many as are summed up in one go.
    #[inline(always)]
    pub(super) fn runs<const WEIGHED: bool>(
        &self,
    ) -> impl Iterator<Item = (&'a [Each], &'a [Each])> + use<'a, L, WEIGHED> {
        let (values, weights) = (self.values, self.weights);
        (0..values.len()).step_by(SETTLE).map(move |start| {
            let some = start..(start + SETTLE).min(values.len());
            let weights = if WEIGHED { &weights[some.clone()] } else { &[][..] };
            (&values[some], weights)
        })
    }
}

/// The sum of each run of `count` lanes. Every lane of a run gets it.
#[inline(always)]
pub(crate) fn sum_over<L: Lanes>(lanes: L, mut sums: L::F32, count: usize) -> L::F32 {
    if count > 8 {
        sums = lanes.add(sums, lanes.exchange::<8>(sums));
    }
    if count > 4 {
        sums = lanes.add(sums, lanes.exchange::<4>(sums));
    }
    if count > 2 {
        sums = lanes.add(sums, lanes.exchange::<2>(sums));
    }
    if count > 1 {
        sums = lanes.add(sums, lanes.exchange::<1>(sums));
    }
    sums
}

/// Values that are summed up before their sum joins those before it.
const SETTLE: usize = 128;

/// Numbers times their weights, where they have any.
#[inline(always)]
pub(super) fn weigh<L: Lanes, const WEIGHED: bool>(
    lanes: L,
    numbers: L::F32,
    weights: &[Each],
    at: usize,
) -> L::F32 {
    if WEIGHED { lanes.mul(numbers, lanes.load(&weights[at])) } else { numbers }
}

/// Rows become lanes, times a factor, with zeros behind the last of each.
#[inline(always)]
fn transpose<L: Lanes>(
    lanes: L,
    values: &[f32],
    spans: &[(usize, usize); LANES],
    factors: Option<L::F32>,
    out: &mut [Each],
) {
    let mut rows: [(&[Each], &[f32]); LANES] = [(&[], &[]); LANES];
    let mut whole = usize::MAX;
    for (row, (start, end)) in rows.iter_mut().zip(spans) {
        *row = values[*start..*end].as_chunks();
        whole = if row.0.len() < whole { row.0.len() } else { whole };
    }
    let (of_all, others) = out.as_chunks_mut::<LANES>().0.split_at_mut(whole);
    for (at, out) in of_all.iter_mut().enumerate() {
        let mut vectors = [lanes.splat(0.0); LANES];
        for lane in 0..LANES {
            vectors[lane] = lanes.load(&rows[lane].0[at]);
        }
        put_columns(lanes, vectors, factors, out);
    }
    for (at, out) in (whole..).zip(others) {
        let mut vectors = [lanes.splat(0.0); LANES];
        for (vector, (own, rest)) in vectors.iter_mut().zip(&rows) {
            if let Some(own) = own.get(at) {
                *vector = lanes.load(own);
            } else if at == own.len() {
                let mut padded = [0.0; LANES];
                padded[..rest.len()].copy_from_slice(rest);
                *vector = lanes.load(&padded);
            }
        }
        put_columns(lanes, vectors, factors, out);
    }
}

#[inline(always)]
fn put_columns<L: Lanes>(
    lanes: L,
    rows: [L::F32; LANES],
    factors: Option<L::F32>,
    out: &mut [Each; LANES],
) {
    let columns = lanes.transpose(rows);
    for lane in 0..LANES {
        let column = columns[lane];
        let column = match factors {
            Some(factors) => lanes.mul(column, factors),
            None => column,
        };
        lanes.store(column, &mut out[lane]);
    }
}

/// Divide the weights of each group or block by a power of two, so that the largest is from 1 to 2. Where it is
/// zero or no normal number, all of them become 1. Return whether any group or block has usable weights.
#[inline(always)]
fn normalize<L: Lanes>(lanes: L, rows: &Rows<'_>, weights: &mut [Each]) -> bool {
    let mut largest = lanes.splat(0.0);
    for each in &*weights {
        largest = lanes.larger(lanes.load(each), largest);
    }
    let mut most = [0.0; LANES];
    lanes.store(largest, &mut most);
    let (mut factors, mut says, mut any) = ([1.0; LANES], [true; LANES], false);
    for (at, own) in most.chunks_exact(rows.shared.lanes()).enumerate() {
        let most = own.iter().fold(0.0f32, |most, one| if *one > most { *one } else { most });
        // A power of two, so that no digit is lost.
        let inverse = f32::from_bits((254u32 << 23).wrapping_sub(most.to_bits() & EXPONENT));
        for lane in at * own.len()..(at + 1) * own.len() {
            says[lane] = most.is_normal();
            any |= says[lane];
            if most.is_normal() && inverse.is_normal() {
                factors[lane] = inverse;
            }
        }
    }
    let factors = lanes.load(&factors);
    for each in &mut *weights {
        lanes.store(lanes.mul(lanes.load(each), factors), each);
    }
    for (lane, (start, end)) in rows.spans.iter().enumerate() {
        if !says[lane] {
            for each in weights.iter_mut().take(end - start) {
                each[lane] = 1.0;
            }
            for each in weights.iter_mut().skip(end - start) {
                each[lane] = 0.0;
            }
        }
    }
    any
}

/// Sums of each lane's values.
#[derive(Clone, Copy)]
pub(crate) struct Totals<L: Lanes> {
    /// `Σv`
    pub(crate) sum: L::F32,
    /// `Σ1`
    pub(crate) mass: L::F32,
}

#[inline(always)]
fn totals<L: Lanes, const WEIGHED: bool>(
    lanes: L,
    units: &Units<'_, L>,
    origins: L::F32,
) -> Totals<L> {
    let zero = lanes.splat(0.0);
    let (mut sums, mut masses) = (zero, zero);
    for (values, weights) in units.runs::<WEIGHED>() {
        let (mut sum, mut mass) = (zero, zero);
        for (at, values) in values.iter().enumerate() {
            let above = lanes.sub(lanes.load(values), origins);
            sum = lanes.add(sum, weigh::<L, WEIGHED>(lanes, above, weights, at));
            mass = lanes.add(mass, weigh::<L, WEIGHED>(lanes, lanes.splat(1.0), weights, at));
        }
        (sums, masses) = (lanes.add(sums, sum), lanes.add(masses, mass));
    }
    Totals { sum: units.fold(sums), mass: units.fold(masses) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::Portable;

    fn weights_of(columns: &[f32], groups: &[(usize, usize)], lanes: usize) -> Vec<Each> {
        let values = vec![1.0; columns.len()];
        let importance = Importance { columns, ..Importance::default() };
        let rows = Rows::of_groups((&values, 0), groups, &vec![1.0; groups.len()], lanes);
        let mut room = Room::default();
        Units::new(Portable, &rows, &importance, &mut room).weights.to_vec()
    }

    #[test]
    fn rows_become_lanes() {
        let values: Vec<f32> = (0..40).map(|at| at as f32).collect();
        let (mut room, none) = (Room::default(), Importance::default());
        let rows = Rows::of_groups((&values, 0), &[(0, 20), (20, 40)], &[16.0, 32.0], 1);
        let units = Units::new(Portable, &rows, &none, &mut room);
        assert_eq!((units.values.len(), units.lanes_each()), (32, 1));
        assert_eq!([units.values[19][0], units.values[19][1]], [19.0 / 16.0, 39.0 / 32.0]);
        assert_eq!([units.values[20][0], units.values[0][2]], [0.0; 2]);
        assert_eq!(units.choose([1.0; LANES], [2.0; LANES], [3.0; LANES])[..3], [2.0, 2.0, 3.0]);
        assert_eq!(units.totals([0.0; LANES]).sum[..2], [190.0 / 16.0, 590.0 / 32.0]);
        // In two lanes each.
        let rows = Rows::of_groups((&values, 0), &[(0, 20), (20, 40)], &[16.0, 32.0], 2);
        let units = Units::new(Portable, &rows, &none, &mut room);
        assert_eq!((units.values.len(), units.values[3][1]), (16, 19.0 / 16.0));
        let sums = units.totals([0.0; LANES]).sum;
        assert_eq!(sums[..5], [190.0 / 16.0, 190.0 / 16.0, 590.0 / 32.0, 590.0 / 32.0, 0.0]);
    }

    #[test]
    fn what_says_nothing_is_no_weight() {
        for columns in [[0.0; 4], [f32::NAN; 4], [1e-45; 4], [f32::INFINITY; 4]] {
            assert!(weights_of(&columns, &[(0, 2), (2, 4)], 1).is_empty());
        }
        // Of one group alone.
        let weights = weights_of(&[0.0, 0.0, 4.0, 2.0], &[(0, 2), (2, 4)], 1);
        let first: Vec<[f32; 2]> = weights.iter().map(|each| [each[0], each[1]]).collect();
        assert_eq!(first[..3], [[1.0, 1.0], [1.0, 0.5], [0.0, 0.0]]);
        assert!(weights_of(&[f32::MAX, 1.0], &[(0, 2)], 1)[0][0] >= 1.0);
        // The lanes of a group have one size.
        let weights = weights_of(&[[1.0; 16], [4.0; 16]].concat(), &[(0, 32)], 2);
        assert_eq!(weights[0][..2], [0.25, 1.0]);
    }
}
