//! The innermost products: a few rows of int8 activations by some columns of int8 weights, summed in
//! int32 without any rounding or saturation.
//!
//! Two layouts of the operands, by what the processor multiplies:
//!
//! | layout | activations | instruction | products each |
//! |---|---|---|---|
//! | [`Layout::Pairs`] | i16, two along k | `vpmaddwd` (AVX2), plain code | 16 |
//! | [`Layout::Quads`] | u8 = value + 128, four along k | `vpdpbusd` (AVX-512 VNNI, AVX-VNNI) | 64, 32 |
//!
//! `vpmaddubsw`, which AVX2 kernels elsewhere use, adds its products in saturating int16 and is wrong
//! for some inputs; sign-extended pairs cost no more multiplications and are exact. The 128 that
//! `Quads` adds to every activation is taken off again by the columns' sums.

/// The most rows and columns of a tile.
pub const MAX_ROWS: usize = 12;
const MAX_COLUMNS: usize = 32;

/// Sums of a tile, row after row of [`Kernel::columns`].
pub type Tile = [i32; MAX_ROWS * MAX_COLUMNS];

/// A tile before anything is summed.
pub const NOTHING: Tile = [0; MAX_ROWS * MAX_COLUMNS];

/// How activations and weights are laid out along k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Two values side by side, activations as i16.
    Pairs,
    /// Four values side by side, activations as u8 with 128 added.
    Quads,
}

impl Layout {
    /// Values of k side by side.
    pub fn group(self) -> usize {
        match self {
            Layout::Pairs => 2,
            Layout::Quads => 4,
        }
    }

    /// Bytes of an activation.
    pub fn activation_bytes(self) -> usize {
        match self {
            Layout::Pairs => 2,
            Layout::Quads => 1,
        }
    }

    /// What is added to an activation.
    pub fn offset(self) -> i32 {
        match self {
            Layout::Pairs => 0,
            Layout::Quads => 128,
        }
    }

    /// Writes activations in this layout; what `out` has beyond them becomes zeros.
    pub fn write(self, values: &[i8], out: &mut [u8]) {
        match self {
            Layout::Pairs => {
                let (pairs, rest) = out.split_at_mut(2 * values.len());
                for (out, &value) in pairs.chunks_exact_mut(2).zip(values) {
                    out.copy_from_slice(&i16::from(value).to_ne_bytes());
                }
                rest.fill(0);
            }
            Layout::Quads => {
                let (bytes, rest) = out.split_at_mut(values.len());
                for (out, &value) in bytes.iter_mut().zip(values) {
                    *out = (value as u8) ^ 0x80;
                }
                rest.fill(0x80);
            }
        }
    }
}

/// What this processor runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// No vector instructions of its own.
    Portable,
    /// 256-bit multiply-add of i16 pairs.
    Avx2,
    /// 256-bit dot product of bytes.
    AvxVnni,
    /// 512-bit dot product of bytes.
    Avx512Vnni,
}

impl Kernel {
    /// All of them, the best first.
    pub const ALL: [Kernel; 4] = [
        Kernel::Avx512Vnni,
        Kernel::AvxVnni,
        Kernel::Avx2,
        Kernel::Portable,
    ];

    /// Whether this processor has it.
    pub fn available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            match self {
                Kernel::Portable => true,
                Kernel::Avx2 => has!("avx2"),
                Kernel::AvxVnni => has!("avx2") && has!("avxvnni"),
                Kernel::Avx512Vnni => has!("avx512f") && has!("avx512bw") && has!("avx512vnni"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Kernel::Portable
        }
    }

    /// The best that this processor has.
    pub fn best() -> Self {
        static BEST: std::sync::OnceLock<Kernel> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| {
            let found = Kernel::ALL.into_iter().find(|kernel| kernel.available());
            found.unwrap_or(Kernel::Portable)
        })
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Portable => "portable",
            Kernel::Avx2 => "avx2",
            Kernel::AvxVnni => "avx-vnni",
            Kernel::Avx512Vnni => "avx512-vnni",
        }
    }

    /// The layout that it reads.
    pub fn layout(self) -> Layout {
        match self {
            Kernel::Portable | Kernel::Avx2 => Layout::Pairs,
            Kernel::AvxVnni | Kernel::Avx512Vnni => Layout::Quads,
        }
    }

    /// Rows that it multiplies at once: as many as its registers hold sums for.
    pub fn rows(self) -> usize {
        match self {
            Kernel::Avx512Vnni => 12,
            _ => 6,
        }
    }

    /// Columns that it multiplies at once. AVX-512 takes two vectors of them: an activation that is
    /// loaded serves both, else the loads would take as long as the products.
    pub fn columns(self) -> usize {
        match self {
            Kernel::Avx512Vnni => 32,
            _ => 16,
        }
    }

    /// `tile = rows · columns` over `groups` groups along k: `rows` holds [`Kernel::rows`] rows, each
    /// `row_bytes` long; `weights` is [groups, columns, group].
    pub fn multiply(
        self,
        rows: &[u8],
        row_bytes: usize,
        groups: usize,
        weights: &[i8],
        tile: &mut Tile,
    ) {
        let layout = self.layout();
        let group_bytes = layout.group() * layout.activation_bytes();
        assert!(self.available(), "{} is not on this processor", self.name());
        assert!(row_bytes >= groups * group_bytes);
        assert!(rows.len() >= (self.rows() - 1) * row_bytes + groups * group_bytes);
        assert!(weights.len() >= groups * self.columns() * layout.group());
        // SAFETY: the processor has the instructions, and rows and weights are long enough for
        // `groups` (all checked above).
        match self {
            Kernel::Portable => portable(rows, row_bytes, groups, weights, tile),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => unsafe {
                x86::avx2(rows.as_ptr(), row_bytes, groups, weights.as_ptr(), tile);
            },
            #[cfg(target_arch = "x86_64")]
            Kernel::AvxVnni => unsafe {
                x86::avx_vnni(rows.as_ptr(), row_bytes, groups, weights.as_ptr(), tile);
            },
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Vnni => unsafe {
                x86::avx512_vnni(rows.as_ptr(), row_bytes, groups, weights.as_ptr(), tile);
            },
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("not available: checked above"),
        }
    }
}

fn portable(rows: &[u8], row_bytes: usize, groups: usize, weights: &[i8], tile: &mut Tile) {
    const COLUMNS: usize = 16;
    let (tile, _) = tile.as_chunks_mut::<COLUMNS>();
    for (row, sums) in rows.chunks(row_bytes).zip(tile).take(6) {
        *sums = [0; COLUMNS];
        let pairs = row.chunks_exact(4).take(groups);
        for (pair, weights) in pairs.zip(weights.chunks_exact(2 * COLUMNS)) {
            let a0 = i32::from(i16::from_ne_bytes([pair[0], pair[1]]));
            let a1 = i32::from(i16::from_ne_bytes([pair[2], pair[3]]));
            for (sum, w) in sums.iter_mut().zip(weights.chunks_exact(2)) {
                *sum += a0 * i32::from(w[0]) + a1 * i32::from(w[1]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Tile;

    /// # Safety
    /// Six rows and the weights hold `groups` groups; the processor has AVX2.
    #[target_feature(enable = "avx2")]
    pub unsafe fn avx2(
        rows: *const u8,
        row_bytes: usize,
        groups: usize,
        weights: *const i8,
        tile: &mut Tile,
    ) {
        let mut sums = [[_mm256_setzero_si256(); 2]; 6];
        for group in 0..groups {
            // SAFETY: inside the rows and weights, says the caller.
            unsafe {
                let w = weights.add(group * 2 * 16).cast::<__m128i>();
                let low = _mm256_cvtepi8_epi16(_mm_loadu_si128(w));
                let high = _mm256_cvtepi8_epi16(_mm_loadu_si128(w.add(1)));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let pair = rows.add(i * row_bytes + 4 * group).cast::<i32>();
                    let pair = _mm256_set1_epi32(pair.read_unaligned());
                    sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(pair, low));
                    sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(pair, high));
                }
            }
        }
        store(tile, &sums);
    }

    /// # Safety
    /// Six rows and the weights hold `groups` groups; the processor has AVX2 and AVX-VNNI.
    #[target_feature(enable = "avx2,avxvnni")]
    pub unsafe fn avx_vnni(
        rows: *const u8,
        row_bytes: usize,
        groups: usize,
        weights: *const i8,
        tile: &mut Tile,
    ) {
        let mut sums = [[_mm256_setzero_si256(); 2]; 6];
        for group in 0..groups {
            // SAFETY: inside the rows and weights, says the caller.
            unsafe {
                let w = weights.add(group * 4 * 16).cast::<__m256i>();
                let (low, high) = (_mm256_loadu_si256(w), _mm256_loadu_si256(w.add(1)));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let quad = rows.add(i * row_bytes + 4 * group).cast::<i32>();
                    let quad = _mm256_set1_epi32(quad.read_unaligned());
                    sums[0] = _mm256_dpbusd_avx_epi32(sums[0], quad, low);
                    sums[1] = _mm256_dpbusd_avx_epi32(sums[1], quad, high);
                }
            }
        }
        store(tile, &sums);
    }

    #[target_feature(enable = "avx2")]
    fn store(tile: &mut Tile, sums: &[[__m256i; 2]; 6]) {
        for (row, sums) in tile.chunks_exact_mut(16).zip(sums) {
            let out = row.as_mut_ptr().cast::<__m256i>();
            // SAFETY: a row is sixteen int32, two of these vectors.
            unsafe {
                _mm256_storeu_si256(out, sums[0]);
                _mm256_storeu_si256(out.add(1), sums[1]);
            }
        }
    }

    /// # Safety
    /// Twelve rows and the weights hold `groups` groups; the processor has AVX-512 F, BW and VNNI.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub unsafe fn avx512_vnni(
        rows: *const u8,
        row_bytes: usize,
        groups: usize,
        weights: *const i8,
        tile: &mut Tile,
    ) {
        let mut sums = [[_mm512_setzero_si512(); 2]; 12];
        for group in 0..groups {
            // SAFETY: inside the rows and weights, says the caller.
            unsafe {
                let w = weights.add(group * 4 * 32).cast::<__m512i>();
                let (low, high) = (_mm512_loadu_si512(w), _mm512_loadu_si512(w.add(1)));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let quad = rows.add(i * row_bytes + 4 * group).cast::<i32>();
                    let quad = _mm512_set1_epi32(quad.read_unaligned());
                    sums[0] = _mm512_dpbusd_epi32(sums[0], quad, low);
                    sums[1] = _mm512_dpbusd_epi32(sums[1], quad, high);
                }
            }
        }
        for (row, sums) in tile.chunks_exact_mut(32).zip(&sums) {
            let out = row.as_mut_ptr().cast::<__m512i>();
            // SAFETY: a row is 32 int32, two of these vectors.
            unsafe {
                _mm512_storeu_si512(out, sums[0]);
                _mm512_storeu_si512(out.add(1), sums[1]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `vpdpbusd` computes, for processors that lack it: the layout is tested everywhere.
    fn plain_quads(
        rows: &[u8],
        row_bytes: usize,
        groups: usize,
        weights: &[i8],
        columns: usize,
    ) -> Tile {
        let mut tile = [0; MAX_ROWS * MAX_COLUMNS];
        for (row, sums) in rows.chunks(row_bytes).zip(tile.chunks_mut(columns)) {
            for group in 0..groups {
                for (column, sum) in sums.iter_mut().enumerate() {
                    for i in 0..4 {
                        *sum += i32::from(row[4 * group + i])
                            * i32::from(weights[(group * columns + column) * 4 + i]);
                    }
                }
            }
        }
        tile
    }

    #[test]
    fn every_kernel_gives_the_same_integers() {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8 as i8
        };
        for k in [1, 2, 3, 7, 64, 321] {
            for extreme in [false, true] {
                let mut value = || if extreme { -128 } else { next() };
                let a: Vec<i8> = (0..MAX_ROWS * k).map(|_| value()).collect();
                let w: Vec<i8> = (0..k * MAX_COLUMNS).map(|_| value()).collect(); // [k, column]
                let product = |row: usize, column: usize| -> i32 {
                    (0..k)
                        .map(|i| i32::from(a[row * k + i]) * i32::from(w[i * MAX_COLUMNS + column]))
                        .sum()
                };
                for kernel in Kernel::ALL {
                    let (layout, columns) = (kernel.layout(), kernel.columns());
                    let group = layout.group();
                    let groups = k.div_ceil(group);
                    let row_bytes = groups * group * layout.activation_bytes();
                    let mut rows = vec![0; MAX_ROWS * row_bytes];
                    for (out, values) in rows.chunks_mut(row_bytes).zip(a.chunks(k)) {
                        layout.write(values, out);
                    }
                    let mut weights = vec![0; groups * group * columns];
                    for (i, w) in w.chunks(MAX_COLUMNS).enumerate() {
                        for (column, &w) in w[..columns].iter().enumerate() {
                            weights[(i / group * columns + column) * group + i % group] = w;
                        }
                    }
                    let mut tile = [0; MAX_ROWS * MAX_COLUMNS];
                    if kernel.available() {
                        kernel.multiply(&rows, row_bytes, groups, &weights, &mut tile);
                    } else if layout == Layout::Quads {
                        tile = plain_quads(&rows, row_bytes, groups, &weights, columns);
                    } else {
                        continue;
                    }
                    for row in 0..kernel.rows() {
                        for column in 0..columns {
                            let sum: i32 =
                                (0..k).map(|i| i32::from(w[i * MAX_COLUMNS + column])).sum();
                            let got = tile[row * columns + column] - layout.offset() * sum;
                            let want = product(row, column);
                            assert_eq!(got, want, "{} k {k} {row},{column}", kernel.name());
                        }
                    }
                }
            }
        }
    }
}
