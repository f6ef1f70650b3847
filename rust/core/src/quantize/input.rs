//! The numbers of a row: its bytes, or what its codes decode to.

use rayon::ThreadPool;
use rayon::prelude::*;

use super::job::Job;
use crate::dtype::Float;
use crate::kernel::dispatch;
use crate::lanes::Level;
use crate::monitor::Monitor;
use crate::relation::quantized::read::Encodings;
pub(super) use crate::relation::quantized::read::Room;
use crate::relation::weights::Weights;
use crate::scheme::Bound;
use crate::tile::{Place, Tiling};

/// Where a row's numbers come from.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    /// The row's data.
    data: &'a [u8],
    source: Float,
    packed: Option<(Bound, &'a Encodings, usize)>,
}

impl<'a> Input<'a> {
    pub(super) fn of(weights: &'a Weights, row: usize, job: &Job) -> Self {
        let encodings = weights.packed.as_ref().and_then(|packed| packed.get(row));
        let packed = job.packed.zip(encodings).map(|(bound, encodings)| (bound, encodings, row));
        Self { data: weights.bytes(row).unwrap_or(&[]), source: job.source, packed }
    }

    /// The bytes of a tile's numbers, of the job's source.
    pub(super) fn bytes<'r>(&self, level: Level, place: &Place, room: &'r mut Room) -> &'r [u8]
    where
        'a: 'r,
    {
        let Some((bound, encodings, row)) = self.packed else {
            let width = self.source.width();
            return &self.data[place.elements.start * width..place.elements.end * width];
        };
        bytemuck::cast_slice(encodings.decode(level, (row, self.data), &bound, place, room))
    }

    /// The same of a tile that will be wanted next, where they are there as they are.
    pub(super) fn next(&self, place: &Place) -> Option<&'a [u8]> {
        let (elements, width) = (&place.elements, self.source.width());
        self.packed.is_none().then(|| &self.data[elements.start * width..elements.end * width])
    }

    /// The numbers of a tile as float32.
    pub(super) fn floats<'r>(
        &self,
        level: Level,
        place: &Place,
        room: &'r mut Room,
        buffer: &'r mut Vec<f32>,
    ) -> &'r [f32]
    where
        'a: 'r,
    {
        float_values(level, self.source, self.bytes(level, place, room), buffer)
    }

    /// What is found in each of the tiles, one after the other. So many at once are looked at by the pool's
    /// threads, and held in memory; after a cancellation, none.
    pub(super) fn in_tiles<T: Send>(
        &self,
        (tiling, at_once): (&Tiling, usize),
        (pool, level, monitor): (&ThreadPool, Level, &Monitor),
        find: impl Fn(&Place, &[f32]) -> T + Sync,
        mut take: impl FnMut(Place, T),
    ) {
        for start in (0..tiling.len()).step_by(at_once) {
            let some = start..(start + at_once).min(tiling.len());
            let look = |(room, values): &mut (Room, Vec<f32>), tile: usize| {
                let place = tiling.place(tile);
                (!monitor.is_cancelled()).then(|| {
                    let found = find(&place, self.floats(level, &place, room, values));
                    (place, found)
                })
            };
            let tiles =
                || some.into_par_iter().map_init(Default::default, look).flatten().collect();
            let found: Vec<_> = pool.install(tiles);
            found.into_iter().for_each(|(place, found)| take(place, found));
        }
    }
}

/// Numbers as float32: the source's own bytes where they are that, else converted into `buffer`.
pub(super) fn float_values<'a>(
    level: Level,
    source: Float,
    bytes: &'a [u8],
    buffer: &'a mut Vec<f32>,
) -> &'a [f32] {
    if let (Float::F32, Ok(values)) = (source, bytemuck::try_cast_slice(bytes)) {
        return values;
    }
    buffer.resize(bytes.len() / source.width(), 0.0);
    dispatch::to_f32(level, source, bytes, buffer);
    buffer
}
