-- SPDX-License-Identifier: Apache-2.0

-- Fields of waymark's recordings, for Wireshark and tshark 3.6 and newer, as
--   tshark -X lua_script:waymark.lua -r vip.pcapng -Y 'waymark.mark == 0x13b8'
-- or among Wireshark's personal Lua plugins. They are read from the comments of
-- the packets. What a journey tells is in those of `waymark export --annotate`.

local waymark = Proto("waymark", "waymark")
local f = waymark.fields

f.hop = ProtoField.string("waymark.hop", "Hop")
f.trail = ProtoField.uint64("waymark.trail", "Trail", base.DEC, nil, nil, "The same number is the same packet")
f.mark = ProtoField.uint32("waymark.mark", "Mark", base.HEX_DEC)
f.reason = ProtoField.string("waymark.reason", "Drop reason")
f.at = ProtoField.string("waymark.at", "Dropped at", nil, "Function of the kernel")
f.journey = ProtoField.string("waymark.journey", "Journey")
f.number = ProtoField.uint32("waymark.number", "Number of the hop", base.DEC)
f.outcome = ProtoField.string("waymark.outcome", "Outcome")
f.flow = ProtoField.string("waymark.flow", "Flow of the balancer")
f.target = ProtoField.uint32("waymark.target", "Target", base.DEC)
f.rule = ProtoField.uint32("waymark.rule", "Routing rule", base.DEC)
f.table = ProtoField.string("waymark.table", "Routing table")
f.nexthop = ProtoField.string("waymark.nexthop", "Next hop")
f.said = ProtoField.string("waymark.said", "Decision")
f.because = ProtoField.string("waymark.because", "Because")
f.advice = ProtoField.string("waymark.advice", "Advice")

local comments = Field.new("frame.comment")
local trails = Field.new("frame.packet_id")
local places = Field.new("frame.interface_name")

local function begins(s, with) return s:sub(1, #with) == with end

-- number adds a number that a field of 32 bits can hold.
local function number(tree, field, s, base)
	local n = s and tonumber(s, base or 10)
	if n and n <= 0xffffffff then tree:add(field, n) end
end

-- own is the packet's own comment: what happened, where, and the mark.
local function own(tree, s)
	local hop, mark = s:match("^(.*), mark 0x(%x+) %(%d+%)$")
	tree:add(f.hop, hop or s)
	if mark then
		number(tree, f.mark, mark, 16)
	elseif begins(s, "ingress ") or begins(s, "egress ") then
		tree:add(f.mark, 0) -- it is not written, but known
	end
end

local function journey(tree, s)
	local id, how = s:match("^journey (%S+): (.*)$")
	local no
	if not id then
		id, no, how = s:match("^journey (%S+), hop (%d+) of %d+: (.*)$")
	end
	if not id then return end
	tree:add(f.journey, id)
	number(tree, f.number, no)
	tree:add(f.outcome, how:match("^%a+") or how)
	local lost = how:match("^dropped: (.*)$")
	if lost then
		local reason, at = lost:match("^(.*) at (%S+)$")
		tree:add(f.reason, reason or lost)
		if at then tree:add(f.at, at) end
	end
end

local function decision(tree, s)
	tree:add(f.said, s)
	if begins(s, "balancer: ") then
		local flow = s:match("^balancer: flow ([^,]+)")
		local target = s:match(" target (%d+)")
		if flow then tree:add(f.flow, flow) end
		number(tree, f.target, target)
	elseif begins(s, "route: ") then
		local last = s:match(".*; (rule .*)$") or s -- rules before had no route
		local rule, tab = last:match("rule (%d+)"), last:match(" table (%w+)")
		local nexthop = last:match(" via (%S+)")
		number(tree, f.rule, rule)
		if tab then tree:add(f.table, tab) end
		if nexthop then tree:add(f.nexthop, nexthop) end
	end
end

function waymark.dissector(buffer, pinfo, tree)
	local all = { comments() }
	if #all == 0 then return end
	local trail, place = trails(), places()
	if not place or not tostring(all[1].value):find(tostring(place.value), 1, true) then return end -- somebody's own comment
	local sub
	for i, info in ipairs(all) do
		local s = tostring(info.value)
		if i == 1 then
			sub = tree:add(waymark)
			sub:append_text(", " .. s)
			own(sub, s)
			if trail then sub:add(f.trail, trail.value) end
		elseif begins(s, "journey ") then
			journey(sub, s)
		elseif begins(s, "because ") then
			sub:add(f.because, s:sub(#"because " + 1))
		elseif begins(s, "advice: ") then
			sub:add(f.advice, s:sub(#"advice: " + 1))
		elseif not begins(s, "note: ") then
			decision(sub, s)
		end
	end
	-- What is not annotated has the reason in the packet's own comment.
	local at, reason = tostring(all[1].value):match("^dropped at (%S+): (%S+),")
	if at and not (all[2] and tostring(all[2].value):find(": dropped: ", 1, true)) then
		sub:add(f.reason, reason)
		sub:add(f.at, at)
	end
end

register_postdissector(waymark)
