/* The soft ranks of cmkd.functional.soft_rank on one standardised row, and their vector-Jacobian products. */
#ifndef CMKD_SOFT_RANKS_H
#define CMKD_SOFT_RANKS_H

#include "rows.h"
#include "sorting.h"

enum { LAPLACE = 0, BINNED = 1, L2 = 2 };

/* With few knots, neighbouring values meet in the same cell: copies of the histogram keep each addition from
 * waiting for the last. */
#define COPIES 4
#define FEW_KNOTS 256

/* What linear binning needs to know of the values between two knots: how many, and the sum of their
 * distances from the left one. */
typedef struct {
    float count, moment;
} cell;

typedef struct {
    int method, knots;
    double softness;
    sort_space sort;
    float *place;                 /* binned: position among the knots, n */
    cell *cells;                  /* binned: knots x COPIES */
    float *histogram, *below, *pull; /* binned: knots each */
    int32_t *order;               /* sorted methods: n */
    double *sorted, *up, *down;   /* sorted methods: n each */
    float *decay;                 /* laplace: exp(-gap) to the value before, n */
    int32_t *block;               /* l2: first position of the block of every position, n */
} rank_space;

/* Share every weight (1 if NULL) linearly between the two knots around its place. */
static void bin_row(const rank_space *w, int n, const float *weight, float *histogram) {
    const int knots = w->knots, last = knots - 2, copies = knots <= FEW_KNOTS ? COPIES : 1;
    cell *cells = w->cells;
    memset(cells, 0, sizeof(cell) * (size_t)(knots * copies));
    for (int i = 0; i < n; i++) {
        int left = (int)w->place[i];
        left = left > last ? last : left;
        cell *here = cells + left + (copies == 1 ? 0 : (i & (COPIES - 1)) * knots);
        const float mass = weight ? weight[i] : 1.0f;
        here->count += mass;
        here->moment += mass * (w->place[i] - (float)left);
    }
    float carried = 0;
    for (int k = 0; k < knots; k++) {
        float count = 0, moment = 0;
        for (int c = 0; c < copies; c++) {
            count += cells[c * knots + k].count;
            moment += cells[c * knots + k].moment;
        }
        histogram[k] = count - moment + carried;
        carried = moment;
    }
}

static void binned_rank(const float *z, int n, rank_space *w, float *rank) {
    const float scale = (float)(w->knots - 1) * 0.5f;
    const int last = w->knots - 2;
    float *place = w->place;
#pragma omp simd
    for (int i = 0; i < n; i++) place[i] = (z[i] / (1 + fabsf(z[i])) + 1) * scale;
    bin_row(w, n, NULL, w->histogram);
    double sum = 0;
    for (int k = 0; k < w->knots; k++) {
        w->below[k] = (float)(sum + 0.5 * w->histogram[k]);
        sum += w->histogram[k];
    }
    const float *below = w->below;
#pragma omp simd
    for (int i = 0; i < n; i++) {
        int left = (int)place[i];
        left = left > last ? last : left;
        rank[i] = 0.5f + below[left] + (place[i] - (float)left) * (below[left + 1] - below[left]);
    }
}

/* dL/dplace_i = (g_i (h_l + h_l+1) - (G_l + G_l+1)) / 2, G the same binning of g as h is of ones: the value's
 * own rank rises with the density around it, and the ranks of its neighbours fall. */
static void binned_backward(const float *z, int n, rank_space *w, const float *g, float *out) {
    const float scale = (float)(w->knots - 1) * 0.25f;
    const int last = w->knots - 2;
    const float *place = w->place;
    float *density = w->below, *pull = w->pull;
    bin_row(w, n, g, pull);
    for (int k = 0; k <= last; k++) {
        density[k] = (w->histogram[k] + w->histogram[k + 1]) * scale;
        pull[k] = (pull[k] + pull[k + 1]) * scale;
    }
#pragma omp simd
    for (int i = 0; i < n; i++) {
        int left = (int)place[i];
        left = left > last ? last : left;
        const float stretch = 1 + fabsf(z[i]);
        out[i] = (g[i] * density[left] - pull[left]) / (stretch * stretch);
    }
}

/* R_i = i + (Q_i - P_i) / 2 in sorted order, P and Q the sums of exp(-|gap| / b) over the values up to i and
 * from i on: each follows from its neighbour's. */
static void laplace_rank(const float *z, int n, const row_stats *s, rank_space *w, float *rank) {
    rank_row(z, n, s->z_bottom, s->z_top, &w->sort, NULL, w->order);
    const double inverse = 1 / w->softness;
    for (int i = 0; i < n; i++) w->sorted[i] = z[w->order[i]] * inverse;
    w->decay[0] = 0;
#pragma omp simd
    for (int i = 1; i < n; i++) w->decay[i] = exp_negative((float)(w->sorted[i - 1] - w->sorted[i]));
    double sum = 0;
    for (int i = 0; i < n; i++) w->up[i] = sum = 1 + sum * w->decay[i];
    w->down[n - 1] = sum = 1;
    for (int i = n - 2; i >= 0; i--) w->down[i] = sum = 1 + sum * w->decay[i + 1];
    float tied = 0;
    for (int i = 0; i < n; i++) {
        if (i == 0 || w->sorted[i] != w->sorted[i - 1]) tied = (float)(i + 1 + 0.5 * (w->down[i] - w->up[i]));
        rank[w->order[i]] = tied;
    }
}

/* dL/dz_i = sum_j exp(-|gap| / b) (g_i - g_j) / 2 b. */
static void laplace_backward(int n, rank_space *w, const float *g, float *out) {
    const double scale = 0.5 / w->softness;
    double sum = 0;
    for (int i = 0; i < n; i++) {
        const double here = g[w->order[i]];
        sum = here + sum * w->decay[i];
        w->sorted[i] = here * (w->up[i] + w->down[i]) - sum; /* the sorted values are not needed any more */
    }
    sum = 0;
    for (int i = n - 1; i >= 0; i--) {
        sum = g[w->order[i]] + (i + 1 < n ? sum * w->decay[i + 1] : 0);
        out[w->order[i]] = (float)((w->sorted[i] - sum) * scale);
    }
}

/* Projection onto the permutahedron by pooling adjacent violators from the largest value down: position k has
 * the target w_k = n - k, and a block whose mean s - w is below that of the next is merged with it. */
static void l2_rank(const float *z, int n, const row_stats *s, rank_space *w, float *rank) {
    rank_row(z, n, s->z_bottom, s->z_top, &w->sort, NULL, w->order);
    const double inverse = n / w->softness; /* the strength is softness / n */
    /* The rank does not feel an offset, the rounding does: beside an outlier, the others keep their digits. */
    const double middle = z[w->order[n / 2]];
    double *mean_value = w->up, *mean_target = w->down;
    int32_t *first = w->block; /* of block b, while they are found */
    int blocks = 0;
    for (int k = 0; k < n; k++) {
        double value = (w->sorted[k] = (z[w->order[n - 1 - k]] - middle) * inverse), target = n - k;
        int from = k;
        while (blocks && mean_value[blocks - 1] - mean_target[blocks - 1] < value - target) {
            blocks--;
            const double before = from - first[blocks], here = k + 1 - from, all = before + here;
            value = (mean_value[blocks] * before + value * here) / all;
            target = (mean_target[blocks] * before + target * here) / all;
            from = first[blocks];
        }
        mean_value[blocks] = value;
        mean_target[blocks] = target;
        first[blocks++] = from;
    }
    for (int b = blocks - 1, end = n; b >= 0; b--) {
        const int from = first[b];
        for (int k = from; k < end; k++) {
            const double off = end - from > 1 ? w->sorted[k] - mean_value[b] : 0;
            rank[w->order[n - 1 - k]] = (float)(mean_target[b] + off);
        }
        /* Overwrites first[b'] of no block that is still to come: block b' < b begins before `from`. */
        for (int k = from; k < end; k++) w->block[k] = from;
        end = from;
    }
}

/* Within a block the rank is the value less the block's mean; a value alone has a fixed rank. */
static void l2_backward(int n, rank_space *w, const float *g, float *out) {
    const double inverse = n / w->softness;
    for (int from = 0; from < n;) {
        int end = from;
        double sum = 0;
        for (; end < n && w->block[end] == from; end++) sum += g[w->order[n - 1 - end]];
        const double mean = sum / (end - from);
        for (int k = from; k < end; k++) {
            const int32_t at = w->order[n - 1 - k];
            out[at] = end - from > 1 ? (float)((g[at] - mean) * inverse) : 0.0f;
        }
        from = end;
    }
}

static void soft_rank(const float *z, int n, const row_stats *s, rank_space *w, float *rank) {
    if (s->constant)
        for (int i = 0; i < n; i++) rank[i] = 0.5f * (float)(n + 1);
    else if (w->method == BINNED)
        binned_rank(z, n, w, rank);
    else if (w->method == LAPLACE)
        laplace_rank(z, n, s, w, rank);
    else
        l2_rank(z, n, s, w, rank);
}

/* The gradient with respect to z, of a row that is not constant and whose soft_rank is still in `w`. */
static void soft_rank_backward(const float *z, int n, rank_space *w, const float *g, float *out) {
    if (w->method == BINNED)
        binned_backward(z, n, w, g, out);
    else if (w->method == LAPLACE)
        laplace_backward(n, w, g, out);
    else
        l2_backward(n, w, g, out);
}

#endif
