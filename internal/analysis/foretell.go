package analysis

import "math"

// TimeToPromote is the expected number of seconds on the last rung for a canary that is as good as
// stable, at rate requests/s, weight w (0 to 1), error rate p and clump bound m; +Inf where it can
// never be proven. (STATISTICS.md 2.6)
func TimeToPromote(cfg *Config, rate, w, p, m float64) float64 {
	if rate <= 0 || w <= 0 || w >= 1 {
		return math.Inf(1)
	}
	r := (1 - w) / w
	best := 0.0
	for _, theta := range promotionTilts {
		a := theta * (cfg.R1 + r) / (theta*cfg.R1 + r)
		best = max(best, w*p*math.Log(a)+(1-w)*p*math.Log1p(cfg.R1/r*(1-a))+w*cfg.D1*(1-a))
	}
	if best <= 0 {
		return math.Inf(1)
	}
	return m * (math.Log(1/cfg.Beta) + 1.5) / (rate * best)
}

// TimeToCut is the expected number of seconds until a canary with error rate pc is cut, against
// stable's pb; +Inf where it is within what is tolerated. (STATISTICS.md 2.7)
func TimeToCut(cfg *Config, rate, w, pb, pc, m float64) float64 {
	if rate <= 0 || w <= 0 || w >= 1 {
		return math.Inf(1)
	}
	r := (1 - w) / w
	best := 0.0
	for _, theta := range rollbackTilts {
		a := min(theta*(cfg.R0+r)/(theta*cfg.R0+r), maxTilt)
		best = max(best, w*pc*math.Log(a)+(1-w)*pb*math.Log1p(-cfg.R0/r*(a-1))-w*cfg.D0*(a-1))
	}
	if best <= 0 {
		return math.Inf(1)
	}
	return m * (math.Log(1/cfg.Alpha) + 2.3) / (rate * best)
}
