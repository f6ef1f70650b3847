//! Facts of whole layers that their parts can't know: which layers need them, and what they are.
//!
//! One is the largest magnitude, for schemes with one scale for all of a layer; the other is how much
//! columns matter by their weights, for weighted searches.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::builder::{Float32Builder, ListBuilder};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use rayon::ThreadPool;
use rayon::prelude::*;

pub use super::importance::Moments;
use super::input::{Input, Room};
use super::job::{Job, check};
use crate::error::Error;
use crate::kernel::dispatch;
use crate::kernel::tile::Bounds;
use crate::lanes::Level;
use crate::monitor::Monitor;
use crate::plan::{self, Asked, Options, Plan};
use crate::relation::requantize::Requantized;
use crate::relation::weights::{Weights, WeightsSchema};
use crate::scheme::{self, Bound, Search};
use crate::settings::{GROUP_SIZE, SEARCH, Settings, Value};

/// What a row needs to know beside its own values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// A largest magnitude.
    pub absmax: Option<Need>,
    /// How much the columns of a layer in parts matter by its weights.
    pub columns: bool,
}

/// Which layers need to know a largest magnitude, beside their own rows' values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Parts of a layer: that of the whole.
    Layer,
    /// Layers that a runtime puts together: that of all of them.
    Siblings,
}

/// What each row of a batch, which may lack its data, needs to know.
///
/// # Errors
/// The batch can't be read as weights.
pub fn needs(batch: &RecordBatch, plan: &Plan, options: &Options) -> Result<Vec<Needs>, Error> {
    let weights = WeightsSchema::without_data(&batch.schema())?.bind(batch)?;
    let need = |row: usize| {
        let asked = plan::resolve(&weights, row, plan, options);
        let Some(Bound { layout, .. }) = plan::bound(&weights, row, &asked) else {
            return Needs::default();
        };
        let absmax = match (layout.has_tensor_scale, layout.has_one_scale()) {
            (true, _) => Some(Need::Siblings),
            (false, true) => Some(Need::Layer),
            (false, false) => None,
        };
        let is_told = || weights.name(row).is_some_and(|x| options.known_importance(x).is_some());
        let is_weighed = Search::of(asked.settings().search()) == Search::Weighted;
        Needs { absmax, columns: is_weighed && !is_told() }
    };
    Ok((0..weights.len).map(need).collect())
}

/// Add the sums of the columns of each row's layer to those of its other parts, by layer. Rows that have no
/// floats, and pieces of a row of the layer, say nothing.
///
/// # Errors
/// The batch can't be read as weights; [`Error::Cancelled`].
pub fn add_moments(
    known: &mut BTreeMap<String, Moments>,
    batch: &RecordBatch,
    pool: &ThreadPool,
    monitor: &Monitor,
) -> Result<(), Error> {
    let added = each(batch, monitor, |weights, row, job| {
        let (moments, _) = Moments::of_row(weights, row, job, (pool, Level::best(), monitor))?;
        known.entry(weights.name(row)?.to_owned()).or_default().add(&moments);
        Some(())
    });
    added.map(drop)
}

/// A table of importance from such sums: a list for each layer, null where the weights say nothing.
///
/// # Errors
/// Arrow has no room for it.
pub fn suggest(known: &BTreeMap<String, Moments>) -> Result<RecordBatch, Error> {
    let mut lists = ListBuilder::new(Float32Builder::new());
    for moments in known.values() {
        let list = moments.suggest();
        lists.values().append_slice(list.as_deref().unwrap_or(&[]));
        lists.append(list.is_some());
    }
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(known.keys()));
    let columns = [("layer_name", names), ("importance", Arc::new(lists.finish()))];
    RecordBatch::try_from_iter(columns).map_err(Error::Arrow)
}

/// The largest magnitude of each row's finite values; none where it has no floats.
///
/// # Errors
/// The batch can't be read as weights; [`Error::Cancelled`].
pub fn absmax(
    batch: &RecordBatch,
    pool: &ThreadPool,
    monitor: &Monitor,
) -> Result<Vec<Option<f32>>, Error> {
    each(batch, monitor, |weights, row, job| {
        let (input, tiling) = (Input::of(weights, row, job), job.tiling());
        let tile = |(room, values): &mut (Room, Vec<f32>), tile: usize| {
            if monitor.is_cancelled() {
                return 0.0;
            }
            let place = tiling.place(tile);
            finite_absmax(Level::best(), input.floats(Level::best(), &place, room, values))
        };
        let tiles = (0..tiling.len()).into_par_iter();
        let most = || tiles.map_init(Default::default, tile).reduce(|| 0.0, f32::max);
        Some(pool.install(most))
    })
}

/// What is found of each row that has floats, as if it were encoded in groups that end wherever parts do.
fn each<T>(
    batch: &RecordBatch,
    monitor: &Monitor,
    mut find: impl FnMut(&Weights, usize, &Job) -> Option<T>,
) -> Result<Vec<Option<T>>, Error> {
    let packed = match Requantized::is_quantized(&batch.schema()) {
        true => Some(Requantized::try_new(&batch.schema())?.batch(batch)?),
        false => None,
    };
    let batch = packed.as_ref().unwrap_or(batch);
    let weights = WeightsSchema::try_new(&batch.schema())?.bind(batch)?;
    let settings = Settings::default().with(GROUP_SIZE, Value::Integer(1));
    let asked = Asked::to_encode(scheme::ANY, settings.with(SEARCH, Value::Choice("none")));
    let of_row = |row: usize| {
        let layer = check(&weights, row, &weights.described(row), &asked, (None, None)).ok()?;
        find(&weights, row, layer.job()?)
    };
    let found = (0..weights.len).map(of_row).collect();
    if monitor.is_cancelled() { Err(Error::Cancelled) } else { Ok(found) }
}

/// Values that are not finite are found when they are encoded.
fn finite_absmax(level: Level, values: &[f32]) -> f32 {
    let mut bounds = [Bounds::ZERO];
    if dispatch::survey(level, values, values.len(), values.len(), &mut bounds) {
        return bounds[0].absmax();
    }
    let finite = values.iter().map(|value| value.abs()).filter(|value| value.is_finite());
    finite.fold(0.0, f32::max)
}
