//! Facts of whole layers, for schemes with one scale for all of a layer: which layers need them, and
//! what they are.

use arrow_array::RecordBatch;
use rayon::ThreadPool;
use rayon::prelude::*;

use super::input::{Input, Room};
use super::job::{Layer, check};
use crate::error::Error;
use crate::kernel::dispatch;
use crate::kernel::tile::Bounds;
use crate::lanes::Level;
use crate::monitor::Monitor;
use crate::plan::{self, Asked, Options, Plan};
use crate::relation::requantize::Requantized;
use crate::relation::weights::{Weights, WeightsSchema};
use crate::scheme;
use crate::settings::{GROUP_SIZE, Settings, Value};

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
pub fn needs(
    batch: &RecordBatch,
    plan: &Plan,
    options: &Options,
) -> Result<Vec<Option<Need>>, Error> {
    let weights = WeightsSchema::without_data(&batch.schema())?.bind(batch)?;
    let need = |row: usize| {
        let asked = plan::resolve(&weights, row, plan, options);
        let layout = plan::bound(&weights, row, &asked)?.layout;
        match (layout.has_tensor_scale, layout.has_one_scale()) {
            (true, _) => Some(Need::Siblings),
            (false, true) => Some(Need::Layer),
            (false, false) => None,
        }
    };
    Ok((0..weights.len).map(need).collect())
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
    let packed = match Requantized::is_quantized(&batch.schema()) {
        true => Some(Requantized::try_new(&batch.schema())?.batch(batch)?),
        false => None,
    };
    let batch = packed.as_ref().unwrap_or(batch);
    let weights = WeightsSchema::try_new(&batch.schema())?.bind(batch)?;
    let found = (0..weights.len).map(|row| row_absmax(&weights, row, pool, monitor)).collect();
    if monitor.is_cancelled() { Err(Error::Cancelled) } else { Ok(found) }
}

fn row_absmax(weights: &Weights, row: usize, pool: &ThreadPool, monitor: &Monitor) -> Option<f32> {
    // As if it were encoded in groups that end wherever parts do.
    let settings = Settings::default().with(GROUP_SIZE, Value::Integer(1));
    let asked = Asked::to_encode(scheme::ANY, settings);
    let layer = check(weights, row, &weights.described(row), &asked, (None, None)).ok()?;
    let Layer::Encode(job) = layer else { return None };
    let (input, tiling) = (Input::of(weights, row, &job), job.tiling());
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
