//! Formats of groups: codes of some bits, with a scale for each group beside them, and for some a bias.

use std::fmt::Debug;
use std::ops::Range;

use super::measure::{Measure, in_full, is_usual};
use super::metrics::Sums;
use super::search::{Each, Rows, Units};
use super::spans::{Spans, floats};
use super::tile::{Bounds, Buffers, Codes, Encoded, Grouping, Room, Search, Tile};
use crate::dtype::ScaleDtype;
use crate::lanes::{LANES, Lanes};

/// What a group's codes are decoded with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameters {
    pub(crate) scale: f32,
    /// Of formats that have one.
    pub(crate) bias: f32,
    /// Of the whole tensor; 1 for formats that have none.
    pub(crate) tensor_scale: f32,
}

/// The parameters of groups side by side.
#[derive(Clone, Copy)]
pub(crate) struct ParametersOfEach<L: Lanes> {
    pub(crate) scale: L::F32,
    pub(crate) bias: L::F32,
    pub(crate) tensor_scale: f32,
}

/// A format of groups. All that it says is how one group is fitted, written and read.
pub(crate) trait Grouped: Debug + Send + Sync + 'static {
    /// Bits of a code. Groups are whole bytes, but for the last one of a tensor.
    const BITS: usize;
    /// Whether groups have biases, for which their values are looked at; such groups are in one tile.
    const BIASED: bool = false;
    /// The largest magnitude that it can hold.
    const LIMIT: f32 = f32::MAX;

    /// The scale of a tensor of this largest magnitude; of formats that have one.
    fn tensor_scale(absmax: f32) -> f32 {
        let _ = absmax;
        1.0
    }

    /// Round the scales of a matrix to what codes of their own can say; of formats that have such.
    fn nest(scales: &mut [f32]) {
        let _ = scales;
    }

    /// The parameters of a group whose values have these bounds; the tensor's scale is known.
    fn fit(values: &[f32], bounds: Bounds, dtype: ScaleDtype, tensor_scale: f32) -> Parameters;

    /// Parameters of smaller squared errors than the `usual` ones, which the bounds give; of formats
    /// whose schemes have such a search.
    fn search<L: Lanes>(
        lanes: L,
        units: &Units<'_, L>,
        usual: ParametersOfEach<L>,
        dtype: ScaleDtype,
    ) -> ParametersOfEach<L> {
        let _ = (lanes, units, dtype);
        usual
    }

    /// Write the codes of some values of a group.
    fn encode<L: Lanes>(lanes: L, parameters: Parameters, values: &[f32], codes: &mut [u8]);

    /// What such codes decode to, whatever their bytes.
    fn decode<L: Lanes>(lanes: L, parameters: Parameters, codes: &[u8], values: &mut [f32]);
}

/// Values that are encoded, decoded and measured while they are in the first-level cache, a multiple of
/// what [`Measure`] settles.
const RUN: usize = 1 << 11;
/// Groups of a run at most.
const MOST: usize = RUN / LANES;

/// The bytes of some elements from the start of a row on.
#[inline(always)]
fn bytes<F: Grouped>(elements: &Range<usize>) -> Range<usize> {
    elements.start * F::BITS / 8..(elements.end * F::BITS).div_ceil(8)
}

/// The bytes of some elements of a row in rows of `width` elements, each of which begins with a byte.
#[inline(always)]
fn bytes_in_rows<F: Grouped>(width: usize, elements: &Range<usize>) -> Range<usize> {
    if (width * F::BITS).is_multiple_of(8) {
        return bytes::<F>(elements);
    }
    let row = elements.start / width;
    let own = bytes::<F>(&(elements.start - row * width..elements.end - row * width));
    let start = row * (width * F::BITS).div_ceil(8);
    start + own.start..start + own.end
}

impl Codes<'_> {
    /// The parameters of a group of the tile.
    #[inline(always)]
    fn parameters(&self, group: usize) -> Parameters {
        let bias = self.biases.get(group).copied().unwrap_or(0.0);
        Parameters { scale: self.scales[group], bias, tensor_scale: self.tensor_scale }
    }
}

/// The scales of groups of these bounds; of formats whose rows may share them.
pub(crate) fn fit<F: Grouped>(grouping: &Grouping, bounds: &[Bounds], scales: &mut [f32]) {
    for (scale, bounds) in scales.iter_mut().zip(bounds) {
        *scale = F::fit(&[], *bounds, grouping.scale_dtype, 1.0).scale;
    }
    F::nest(scales);
}

/// See `Codec::encode`. Where `fitted`, the scales are known; else they are chosen here.
#[inline(always)]
pub(crate) fn encode<L: Lanes, F: Grouped>(
    lanes: L,
    tile: &Tile<'_>,
    out: Encoded<'_>,
    fitted: bool,
    buffers: &mut Buffers,
    sums: &mut [Sums],
) {
    let Buffers { values: buffer, decoded, room: search_room, .. } = buffers;
    let Encoded { data, scales, biases, .. } = out;
    let mut spans = Spans::new(&tile.grouping, tile.width, tile.phase);
    let absmax = tile.ranges.iter().fold(0.0f32, |absmax, range| absmax.max(range.absmax()));
    let part = (scales.len() / sums.len().max(1)).max(1);
    let (mut first, tensor_scale) = (0, tile.tensor_scale);
    for sums in sums {
        let (start, mut measure, mut group) = (spans.clone(), Measure::new(lanes), first);
        let end = first + part;
        while group < end {
            let mut each = spans.clone();
            let mut run = spans.next();
            let mut count = 1;
            while group + count < end && count < MOST && run.len() + spans.peek() <= RUN {
                (run.end, count) = (spans.next().end, count + 1);
            }
            let values = floats(lanes, tile.values, run.clone(), buffer);
            let decoded = room(decoded, values.len().min(RUN));
            if !fitted {
                // All before the first is needed: one division need not wait for another's.
                let mut each = each.clone();
                let mut places = [(0, 0); MOST];
                for at in 0..count {
                    let (group, span) = (group + at, each.next());
                    places[at] = (span.start - run.start, span.end - run.start);
                    let values = &values[places[at].0..places[at].1];
                    let (dtype, bounds) = (tile.grouping.scale_dtype, tile.ranges[group]);
                    let parameters = F::fit(values, bounds, dtype, tensor_scale);
                    scales[group] = parameters.scale;
                    if F::BIASED {
                        biases[group] = parameters.bias;
                    }
                }
                if tile.search != Search::None {
                    let end = group + count;
                    let biases = if F::BIASED { &mut biases[group..end] } else { &mut [][..] };
                    search_run::<L, F>(
                        lanes,
                        tile,
                        (values, run.start),
                        (&places[..count], &tile.ranges[group..end]),
                        (&mut scales[group..end], biases),
                        search_room,
                    );
                }
            }
            for at in 0..count {
                let (group, span) = (group + at, each.next());
                let values = &values[span.start - run.start..span.end - run.start];
                let bias = biases.get(group).copied().unwrap_or(0.0);
                let parameters = Parameters { scale: scales[group], bias, tensor_scale };
                let codes = &mut data[bytes_in_rows::<F>(tile.width, &span)];
                F::encode(lanes, parameters, values, codes);
                if count > 1 || values.len() <= RUN {
                    let at = span.start - run.start;
                    F::decode(lanes, parameters, codes, &mut decoded[at..at + values.len()]);
                    continue;
                }
                for (at, values) in (0..).step_by(RUN).zip(values.chunks(RUN)) {
                    let decoded = &mut decoded[..values.len()];
                    F::decode(
                        lanes,
                        parameters,
                        &codes[bytes::<F>(&(at..at + values.len()))],
                        decoded,
                    );
                    measure.add(values, decoded);
                }
            }
            if values.len() <= RUN {
                measure.add(values, &decoded[..values.len()]);
            }
            group += count;
        }
        *sums += measure.sums().filter(|_| is_usual(absmax)).unwrap_or_else(|| {
            let (Tile { grouping, width, phase, .. }, zero_points) = (*tile, &[][..]);
            let codes =
                Codes { grouping, width, phase, data, scales, biases, zero_points, tensor_scale };
            let mut spans = start;
            let mut sums = Sums::default();
            for group in first..end {
                let span = spans.next();
                let decoded = room(decoded, span.len());
                F::decode(
                    lanes,
                    codes.parameters(group),
                    &data[bytes_in_rows::<F>(tile.width, &span)],
                    decoded,
                );
                sums += in_full(floats(lanes, tile.values, span, buffer), decoded);
            }
            sums
        });
        first = end;
    }
}

/// Search for the parameters of a run of groups, which begins at an element of the tile; the usual ones are
/// known.
#[inline(always)]
fn search_run<L: Lanes, F: Grouped>(
    lanes: L,
    tile: &Tile<'_>,
    values: (&[f32], usize),
    (places, bounds): (&[(usize, usize)], &[Bounds]),
    (scales, biases): (&mut [f32], &mut [f32]),
    search_room: &mut Room,
) {
    const NONE: Each = [0.0; LANES];
    for (at, places) in (0..).step_by(LANES).zip(places.chunks(LANES)) {
        let (some, mut absmax) = (at..at + places.len(), NONE);
        for (absmax, bounds) in absmax.iter_mut().zip(&bounds[some.clone()]) {
            *absmax = bounds.absmax();
        }
        let (mut own_scales, mut own_biases) = (NONE, NONE);
        own_scales[..places.len()].copy_from_slice(&scales[some.clone()]);
        if F::BIASED {
            own_biases[..places.len()].copy_from_slice(&biases[some.clone()]);
        }
        // None has so many values that it has several lanes.
        let rows = Rows::of_groups(values, places, &absmax, 1);
        let units = Units::new(lanes, &rows, &tile.importance, search_room);
        let (scale, bias) = (lanes.load(&own_scales), lanes.load(&own_biases));
        let usual = ParametersOfEach { scale, bias, tensor_scale: tile.tensor_scale };
        let found = F::search(lanes, &units, usual, tile.grouping.scale_dtype);
        lanes.store(found.scale, &mut own_scales);
        lanes.store(found.bias, &mut own_biases);
        scales[some.clone()].copy_from_slice(&own_scales[..places.len()]);
        if F::BIASED {
            biases[some].copy_from_slice(&own_biases[..places.len()]);
        }
    }
}

#[inline(always)]
fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// See `Codec::decode`.
#[inline(always)]
pub(crate) fn decode<L: Lanes, F: Grouped>(lanes: L, tile: &Codes<'_>, values: &mut [f32]) {
    let mut spans = Spans::new(&tile.grouping, tile.width, tile.phase);
    for group in 0..tile.scales.len() {
        let span = spans.next();
        F::decode(
            lanes,
            tile.parameters(group),
            &tile.data[bytes_in_rows::<F>(tile.width, &span)],
            &mut values[span],
        );
    }
}
