//! How much the columns of layers matter to a weighted search: as they are told, or as the weights
//! themselves suggest.

use std::borrow::Cow;
use std::collections::HashMap;

use rayon::ThreadPool;

use super::input::Input;
use super::job::{Job, check_importance, width};
use super::rows::Rows;
use crate::kernel::dispatch::add_moments;
use crate::kernel::moments::ROWS;
use crate::kernel::tile::{Importance, Search, Spread, exponent};
use crate::lanes::Level;
use crate::monitor::Monitor;
use crate::relation::described::element_product;
use crate::relation::weights::Weights;
use crate::tile::{Place, TILE};

/// Elements of tiles whose sums are in memory at once, 16 bytes each of wide rows. Each thread has one tile, too.
const AT_ONCE: usize = 32 * TILE;
/// A column's variance is taken for at least so much of the mean one.
const LEAST: f64 = 1e-3;
/// A variance below so much of the mean square is rounding.
const LOST: f64 = 1e-12;
/// Columns of few elements say little: so many more are taken to have the mean variance.
const PRIOR: f64 = 4.0;

/// How much the columns of rows matter, by row.
pub(super) type Importances<'a> = HashMap<usize, Columns<'a>>;

/// How much the columns of a layer matter.
pub(super) struct Columns<'a> {
    /// Empty where all matter alike.
    columns: Cow<'a, [f32]>,
    /// Of each row, where values matter by their magnitudes, too.
    rows: Vec<Spread>,
    /// Where in a row of the layer the first element lies.
    first: usize,
}

impl Columns<'_> {
    /// Of a tile's values.
    pub(super) fn of(&self, place: &Place) -> Importance<'_> {
        let Self { columns, rows, first } = self;
        Importance { columns, rows, first: first + place.elements.start }
    }
}

/// Of those layers whose parameters are searched for so; of `rows`, which rise, where these are given.
pub(super) fn importances<'a>(
    rows: &Rows<'a>,
    wanted: Option<&[usize]>,
    pool: &ThreadPool,
    level: Level,
    monitor: &Monitor,
) -> Importances<'a> {
    let mut found = Importances::new();
    let weights = rows.weights;
    let runs = rows.runs().filter_map(|(run, fate)| Some((run, *fate.kind()?.layer.job()?)));
    let weighed = runs.filter(|(_, job)| job.search() == Search::Weighted);
    let is_wanted = |row: &usize| wanted.is_none_or(|wanted| wanted.binary_search(row).is_ok());
    for (row, job) in weighed.flat_map(|(run, job)| run.map(move |row| (row, job))) {
        if !is_wanted(&row) {
            continue;
        }
        let (width, first) = width(weights, row);
        let told = check_importance(rows.importance(row), width).ok().flatten();
        let columns = match told {
            // Those that matter alike are searched as if nothing was known.
            Some([one, others @ ..]) if others.iter().all(|other| other == one) => {
                Columns { columns: Cow::Borrowed(&[]), rows: Vec::new(), first }
            }
            Some(columns) => Columns { columns: in_usual_units(columns), rows: Vec::new(), first },
            None => suggested(weights, row, &job, rows.suggested(row), (pool, level, monitor)),
        };
        found.insert(row, columns);
    }
    found
}

/// What the weights suggest, where nothing is known of the layer's inputs: a column matters by the
/// reciprocal of its variance, since models balance large inputs with small weights, and a weight by
/// `√(2σ² + w²)`, σ² being its row's mean square. A part of a layer knows its own weights only, unless what
/// the whole layer suggests of columns is `known`; a piece of a row knows nothing.
///
/// Source: llama.cpp weighs by the latter without an importance matrix (`quantize_row_q4_K_impl` in
/// <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-quants.c>); column scales mirror
/// activations in SINQ, <https://arxiv.org/abs/2509.22944>.
fn suggested<'a>(
    weights: &Weights,
    row: usize,
    job: &Job,
    known: Option<&'a [f32]>,
    context: (&ThreadPool, Level, &Monitor),
) -> Columns<'a> {
    let (width, first) = width(weights, row);
    let nothing = Columns { columns: Cow::Borrowed(&[]), rows: Vec::new(), first };
    let Some((moments, rows)) = Moments::of_row(weights, row, job, context) else {
        return nothing;
    };
    let of_layer = weights.part(row).and_then(|part| element_product(part.layer_shape).ok());
    // Another layer of that name may be whole.
    let is_part = of_layer.is_some_and(|elements| elements > job.elements());
    let known = known.filter(|known| is_part && known.len() == width).map(Cow::Borrowed);
    let Some(columns) = known.or_else(|| moments.suggest().map(Cow::Owned)) else {
        return nothing;
    };
    let end = first + job.elements();
    let spread = |(row, squares): (usize, &f64)| {
        let elements = (row * width).max(first)..((row + 1) * width).min(end);
        Spread::of(squares / elements.len().max(1) as f64)
    };
    Columns { columns, rows: rows.iter().enumerate().map(spread).collect(), first }
}

/// Sums of a layer's columns, or of those of its parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    sums: Vec<f64>,
    squares: Vec<f64>,
    /// Elements of each column.
    counts: Vec<u64>,
}

impl Moments {
    /// Of a row, and the sum of squares of each row of the matrix that it touches; nothing of a piece of a
    /// row, whose layer may be said to have any number of columns.
    pub(super) fn of_row(
        weights: &Weights,
        row: usize,
        job: &Job,
        (pool, level, monitor): (&ThreadPool, Level, &Monitor),
    ) -> Option<(Self, Vec<f64>)> {
        let (width, first) = width(weights, row);
        if job.elements() < width {
            return None;
        }
        let (tiling, input) = (job.tiling(), Input::of(weights, row, job));
        let end = first + job.elements();
        let (mut sums, mut squares) = (vec![0.0; width], vec![0.0; width]);
        let mut rows = vec![0.0; end.div_ceil(width)];
        let find = |place: &Place, values: &[f32]| {
            Tally::of(level, values, first + place.elements.start, width)
        };
        let at_once = AT_ONCE / tiling.place(0).elements.len().max(1);
        let tiling = (&tiling, at_once.max(pool.current_num_threads()));
        input.in_tiles(tiling, (pool, level, monitor), find, |_, tally| {
            let (start, count) = (tally.first % width, tally.sums.len());
            let behind = count.min(width - start);
            for (all, own) in [(&mut sums, &tally.sums), (&mut squares, &tally.squares)] {
                add(&mut all[start..], &own[..behind]);
                add(all, &own[behind..]);
            }
            for (own, row) in tally.rows.iter().zip(&mut rows[tally.first / width..]) {
                *row += own;
            }
        });
        // Rows that reach a column, but for a first one that begins behind it.
        let reach = |column: usize| (end - column.min(end)).div_ceil(width);
        let count = |column: usize| (reach(column) - usize::from(column < first)) as u64;
        Some((Self { sums, squares, counts: (0..width).map(count).collect() }, rows))
    }

    /// Add those of another part of the layer, which has as many columns.
    pub fn add(&mut self, other: &Self) {
        if self.sums.is_empty() {
            return self.clone_from(other);
        }
        add(&mut self.sums, &other.sums);
        add(&mut self.squares, &other.squares);
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
    }

    /// How much each column matters by them; nothing where they do not say.
    pub fn suggest(&self) -> Option<Vec<f32>> {
        let columns = self.sums.iter().zip(&self.squares).zip(&self.counts);
        let variance = |((sum, square), &count): ((&f64, &f64), &u64)| {
            let (count, mean) = (count.max(1) as f64, sum / count.max(1) as f64);
            let (square, variance) = (square / count, square / count - mean * mean);
            // What sums have lost is no variance.
            if variance > LOST * square { variance } else { 0.0 }
        };
        let variances: Vec<f64> = columns.map(variance).collect();
        let mean = variances.iter().sum::<f64>() / variances.len() as f64;
        // Of a column of equal weights nothing can be said.
        let suggest = |(&variance, &count): (&f64, &u64)| {
            let shrunk = (count as f64 * variance + PRIOR * mean) / (count as f64 + PRIOR);
            if variance == 0.0 { 1.0 } else { coarse((mean / shrunk.max(LEAST * mean)) as f32) }
        };
        mean.is_normal().then(|| variances.iter().zip(&self.counts).map(suggest).collect())
    }
}

/// Numbers of which the largest is far from 1, times a power of two: what is compared with it stays a normal
/// number.
fn in_usual_units(columns: &[f32]) -> Cow<'_, [f32]> {
    const USUAL: std::ops::Range<f32> = 1e-18..1e18;
    let most = columns.iter().fold(0.0f32, |most, one| if *one > most { *one } else { most });
    if USUAL.contains(&most) || most == 0.0 {
        return Cow::Borrowed(columns);
    }
    let factor = 2f64.powi(-exponent(f64::from(most)));
    columns.iter().map(|one| (f64::from(*one) * factor) as f32).collect()
}

/// Add numbers to the first of others.
fn add(all: &mut [f64], own: &[f64]) {
    all.iter_mut().zip(own).for_each(|(all, own)| *all += own);
}

/// A number with eight bits of fraction: sums differ in their last bits where a layer is cut elsewhere.
fn coarse(number: f32) -> f32 {
    const BELOW: u32 = f32::MANTISSA_DIGITS - 1 - 8;
    f32::from_bits(((number.to_bits() + (1 << (BELOW - 1))) >> BELOW) << BELOW)
}

/// Sums over a tile.
struct Tally {
    /// Where its first element lies, counted from a row's beginning.
    first: usize,
    /// Of each column that it touches, from its first element's on: sums, and sums of squares.
    sums: Vec<f64>,
    squares: Vec<f64>,
    /// The sum of squares of each row that it touches.
    rows: Vec<f64>,
}

impl Tally {
    fn of(level: Level, values: &[f32], first: usize, width: usize) -> Self {
        let count = values.len().min(width);
        let (mut sums, mut squares) = (vec![0.0; count], vec![0.0; count]);
        let mut rows = Vec::with_capacity(values.len() / width + 2);
        let (mut rest, mut at) = (values, first);
        while !rest.is_empty() {
            let column = at % width;
            let length = rest.len().min(width - column);
            let together = if column == 0 { (rest.len() / width).clamp(1, ROWS) } else { 1 };
            let (own, others) = rest.split_at(together * length);
            // Columns are counted from the tile's first one.
            let place = (column + width - first % width) % width;
            let (mut heads, mut tails): ([&[f32]; ROWS], [&[f32]; ROWS]) = Default::default();
            for ((head, tail), row) in heads.iter_mut().zip(&mut tails).zip(own.chunks(length)) {
                (*head, *tail) = row.split_at(length.min(count - place));
            }
            let (heads, tails) = (&heads[..together], &tails[..together]);
            let of_heads = add_moments(level, heads, &mut sums[place..], &mut squares[place..]);
            let of_tails = add_moments(level, tails, &mut sums, &mut squares);
            let both = of_heads.iter().zip(&of_tails).take(together);
            rows.extend(both.map(|(head, tail)| head + tail));
            (rest, at) = (others, at + own.len());
        }
        Self { first, sums, squares, rows }
    }
}
